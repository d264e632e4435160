package e2e

import (
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"lazaret/internal/console/api"
)

// setDNS gives a pool DNS servers.
func (c *operator) setDNS(t testing.TB, pool string, servers ...string) {
	t.Helper()
	var list []api.Pool
	c.want(t, http.StatusOK, "GET", "/api/v1/pools", nil, &list)
	p := list[slices.IndexFunc(list, func(p api.Pool) bool { return p.Name == pool })]
	p.DNS = nil
	for _, s := range servers {
		p.DNS = append(p.DNS, netip.MustParseAddr(s))
	}
	c.want(t, http.StatusOK, "PUT", "/api/v1/pools/"+pool, p, nil)
}

const ownResolvConf = "nameserver 203.0.113.53\n"

// TestDNSIsSetAndGivenBack on a device without systemd-resolved, whose /etc/resolv.conf is
// a file, or a mount of its own as in a container: each placement brings its servers; an
// agent that was killed leaves them, and the next one gives back what was there, unless
// somebody else has written the file.
func TestDNSIsSetAndGivenBack(t *testing.T) {
	t.Parallel()
	g := newGateway(t, options{})
	g.setDNS(t, "quarantine", "192.0.2.53")
	g.setDNS(t, "full", "10.10.0.53", "fd10::53")
	for _, kind := range []string{"file", "mount"} {
		l := newLaptop(t, g)
		l.config.Etc = filepath.Join(l.host.Dir(), "etc")
		file := filepath.Join(l.config.Etc, "resolv.conf")
		if err := os.Mkdir(l.config.Etc, 0o755); err != nil {
			t.Fatal(err)
		}
		if kind == "mount" {
			if err := os.WriteFile(file, nil, 0o644); err != nil { // what is mounted on
				t.Fatal(err)
			}
			file = filepath.Join(l.host.Dir(), "resolv.conf")
			l.config.Resolv = file
		}
		write := func(text string) {
			t.Helper()
			if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		holds := func(when string, servers ...string) {
			t.Helper()
			want := "nameserver " + strings.Join(servers, "\nnameserver ") + "\n"
			until(t, kind+", "+when+": "+want, func() bool {
				text, err := os.ReadFile(file)
				return err == nil && strings.HasSuffix(string(text), want) && strings.Count(string(text), "nameserver ") == len(servers)
			})
		}
		write(ownResolvConf)
		l.enroll(t, g.url(), api.OTPRequest{User: kind + "@example.com"})
		l.start(t, "")
		holds("in quarantine", "192.0.2.53")
		g.reported(t, l.id, "compliant")
		holds("routed", "10.10.0.53", "fd10::53")
		g.reported(t, l.id, "noncompliant")
		holds("in quarantine again", "192.0.2.53")
		if err := l.run.Kill(soon(t)); err != nil {
			t.Fatal(err)
		}
		holds("killed", "192.0.2.53")
		l.start(t, "")
		if _, err := l.run.AwaitOutput(soon(t), "took back the DNS servers"); err != nil {
			t.Error(err)
		}
		holds("started again", "192.0.2.53")
		l.end(t)
		if text, err := os.ReadFile(file); err != nil || string(text) != ownResolvConf {
			t.Errorf("%s: after the end it holds %q, %v", kind, text, err)
		}
		if list, err := os.ReadDir(l.config.Etc); err != nil || len(list) != 1 {
			t.Errorf("%s: left behind: %v %v", kind, list, err)
		}

		l.start(t, "")
		holds("once more", "192.0.2.53")
		write("nameserver 192.0.2.9\n")
		run := l.run
		l.end(t)
		holds("written by somebody else", "192.0.2.9")
		if !strings.Contains(run.Output(), "another program has written") {
			t.Errorf("%s: the log does not say that somebody else wrote the file:\n%s", kind, run.Output())
		}
	}
}
