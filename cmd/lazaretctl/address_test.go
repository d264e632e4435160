package main

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"lazaret/appliance/claim"
)

func TestClaimAddress(t *testing.T) {
	for host, want := range map[string][2]string{
		"192.0.2.20":             {"192.0.2.20:443", "192.0.2.20"},
		"192.0.2.20:8443":        {"192.0.2.20:8443", "192.0.2.20"},
		"gw.example.com":         {"gw.example.com:443", "gw.example.com"},
		"gw.example.com:1":       {"gw.example.com:1", "gw.example.com"},
		"2001:db8::1":            {"[2001:db8::1]:443", "2001:db8::1"},
		"[2001:db8::1]":          {"[2001:db8::1]:443", "2001:db8::1"},
		"[2001:db8::1]:8443":     {"[2001:db8::1]:8443", "2001:db8::1"},
		"fe80::1%eth0":           {"[fe80::1%eth0]:443", "fe80::1"},
		"[fe80::1%eth0]":         {"[fe80::1%eth0]:443", "fe80::1"},
		"[fe80::1%eth0]:8443":    {"[fe80::1%eth0]:8443", "fe80::1"},
		"[fe80::1%25eth0]":       {"[fe80::1%eth0]:443", "fe80::1"},
		"[fe80::1%25eth0]:8443":  {"[fe80::1%eth0]:8443", "fe80::1"},
		"[fe80::1%25]:8443":      {"[fe80::1%25]:8443", "fe80::1"}, // the card with number 25
		"fe80::1%25":             {"[fe80::1%25]:443", "fe80::1"},
		"fe80::1%enp0s31f6.1234": {"[fe80::1%enp0s31f6.1234]:443", "fe80::1"},
	} {
		address, name := claimAddress(host)
		if address != want[0] || name != want[1] {
			t.Errorf("%s: %s and %s, want %s", host, address, name, want)
		}
	}
}

func TestServerWithAZone(t *testing.T) {
	for server, want := range map[string][2]string{
		"https://gw.example.com:8443":         {"https://gw.example.com:8443", ""},
		"https://gw.example.com/a%20b":        {"https://gw.example.com/a%20b", ""},
		"https://[2001:db8::1]:8443":          {"https://[2001:db8::1]:8443", ""},
		"https://[fe80::1%eth0]:8443":         {"https://[fe80::1%25eth0]:8443", "fe80::1"},
		"https://[fe80::1%25eth0]:8443/":      {"https://[fe80::1%25eth0]:8443/", "fe80::1"},
		"https://[fe80::1%25]":                {"https://[fe80::1%2525]", "fe80::1"},
		"https://[not an address%eth0]:8443/": {"https://[not an address%eth0]:8443/", ""},
	} {
		escaped, name := withoutZone(server)
		if escaped != want[0] || name != want[1] {
			t.Errorf("%s: %s and %q, want %q", server, escaped, name, want)
		}
		if name == "" {
			continue
		}
		r, err := http.NewRequest(http.MethodGet, escaped+"/api/v1/status", nil)
		if err != nil || !strings.HasPrefix(r.URL.Hostname(), "fe80::1%") {
			t.Errorf("%s: %v", escaped, err)
		}
	}
}

// TestClaimClock: a machine whose clock is far off is not claimed unless somebody says so,
// and nothing is left of the try.
func TestClaimClock(t *testing.T) {
	for name, x := range map[string]struct {
		off     time.Duration
		args    []string
		refused bool
		warned  bool
	}{
		"years behind":           {-25 * 365 * 24 * time.Hour, nil, true, false},
		"years ahead":            {14 * 365 * 24 * time.Hour, nil, true, false},
		"two hours behind":       {-2 * time.Hour, nil, true, false},
		"half an hour behind":    {-30 * time.Minute, nil, false, true},
		"half an hour ahead":     {30 * time.Minute, nil, false, true},
		"right":                  {0, nil, false, false},
		"years behind, accepted": {-25 * 365 * 24 * time.Hour, []string{"--accept-clock"}, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			address, code, kept := claimable(t, t.TempDir(), false, func(c *claim.KeeperConfig) {
				c.Clock = func() claim.Clock { return claim.Clock{Time: time.Now().Add(x.off)} }
			})
			dir := filepath.Join(t.TempDir(), "credential")
			_, said, err := ctl(t, dir, code.String(), append([]string{"claim", address, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443"}, x.args...)...)
			if x.refused {
				machines, ours := time.Now().Add(x.off).UTC().Format("January 2006"), time.Now().UTC().Format("January 2006")
				if err == nil || !strings.Contains(err.Error(), machines) || !strings.Contains(err.Error(), ours) || !strings.Contains(err.Error(), "--accept-clock") {
					t.Errorf("%v", err)
				}
				if list, _ := os.ReadDir(dir); len(list) != 0 {
					t.Errorf("left %v", list)
				}
			} else if err != nil {
				t.Error(err)
			}
			if strings.Contains(said, "warning: the machine's clock") != x.warned {
				t.Errorf("said %s", said)
			}
			want := 1
			if x.refused {
				want = 0
			}
			if n := kept(); n != want {
				t.Errorf("kept %d times, want %d", n, want)
			}
		})
	}
}

// TestClockThatIsNotTold: a machine that says no time is not claimed unless somebody says so.
func TestClockThatIsNotTold(t *testing.T) {
	for accepted, want := range map[bool]bool{false: true, true: false} {
		if err := checkClock(io.Discard, claim.Clock{Synchronized: true}, time.Now(), accepted); (err != nil) != want {
			t.Errorf("accepted %v: %v", accepted, err)
		}
	}
}

// TestHintsNameTheDirectory: what is suggested after a claim works as it is written.
func TestHintsNameTheDirectory(t *testing.T) {
	address, code, _ := unclaimed(t, t.TempDir())
	dir := filepath.Join(t.TempDir(), "of the gateway")
	out, _, err := ctl(t, dir, code.String(), "claim", address, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443")
	for _, want := range []string{"lazaretctl --dir '" + dir + "' status\n", "lazaretctl --dir '" + dir + "' otp create --user NAME\n"} {
		if err != nil || !strings.Contains(out, want) {
			t.Errorf("%v, no %q in:\n%s", err, want, out)
		}
	}
	_, _, err = ctl(t, t.TempDir(), "", "status")
	if err == nil || !strings.Contains(err.Error(), "lazaretctl claim") || !strings.Contains(err.Error(), "lazaretctl connect") {
		t.Errorf("without a credential: %v", err)
	}
}

// relay passes what comes in at l on to address, until the test ends.
func relay(t *testing.T, l net.Listener, address string) {
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", address)
			if err != nil {
				in.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{in, out}, {out, in}} {
				all.Go(func() {
					_, _ = io.Copy(way[0], way[1]) // whichever side ends first ends both
					in.Close()
					out.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
}
