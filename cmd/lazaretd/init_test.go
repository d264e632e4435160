package main

import (
	"reflect"
	"testing"

	"github.com/spf13/cobra"
)

// TestInitTakesWhatIsGiven: configuration values stand in the file only if a flag gives
// them, and what is no network is refused.
func TestInitTakesWhatIsGiven(t *testing.T) {
	options := func(args ...string) (map[string]any, string, error) {
		t.Helper()
		var v initFlags
		c := &cobra.Command{}
		v.define(c)
		if err := c.ParseFlags(args); err != nil {
			t.Fatal(err)
		}
		o, err := v.options("x.toml", c.Flags().Changed)
		return o.Values, o.Organization, err
	}
	got, organization, err := options("--enroll-name", "gw.example.com", "--port", "51000", "--organization", "Example", "--interface=lz1", "--api-listen=127.0.0.1:1")
	want := map[string]any{"enroll.names": []string{"gw.example.com"}, "tunnel.port": 51000, "tunnel.interface": "lz1", "api.listen": []string{"127.0.0.1:1"}}
	if err != nil || !reflect.DeepEqual(got, want) || organization != "Example" {
		t.Errorf("%v of %q, %v", got, organization, err)
	}
	for _, bad := range []string{"--route=10.0.0.1/8", "--full=x", "--quarantine=10.66.0.0"} {
		if _, _, err := options(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	c := &cobra.Command{}
	new(initFlags).define(c)
	for key, flag := range flagOf {
		if c.Flags().Lookup(flag) == nil {
			t.Errorf("%s: there is no flag %s", key, flag)
		}
	}
}
