package plane

import "testing"

func TestPreflightNamesWhatIsMissing(t *testing.T) {
	for release, ok := range map[string]bool{
		"6.12.0": true, "6.12.117+deb12-amd64": true, "7.0.1": true, "6.18": true, "6.11.9": false, "5.10.0-33-amd64": false, "": false, "x.y": false,
	} {
		if err := checkKernel(release); (err == nil) != ok {
			t.Errorf("kernel %q: %v", release, err)
		}
	}
	for status, ok := range map[string]bool{
		"Name:\tx\nCapEff:\t0000000000001000\n": true, "CapEff:\t000001ffffffffff\n": true,
		"CapEff:\t0000000000000400\n": false, "CapEff:\tzz\n": false, "": false,
	} {
		if err := checkCapability(status); (err == nil) != ok {
			t.Errorf("status %q: %v", status, err)
		}
	}
}
