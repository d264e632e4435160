package machine

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"io/fs"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/boot"
	"lazaret/appliance/update"
	"lazaret/internal/config"
)

// overSlots is a machine without a kernel under it: its slots lie in a directory.
func overSlots(t *testing.T, slots ...string) (*Machine, string) {
	t.Helper()
	return overSlotsIn(t, t.TempDir(), slots...)
}

// overSlotsIn is overSlots with the record of updates in a directory.
func overSlotsIn(t *testing.T, record string, slots ...string) (*Machine, string) {
	t.Helper()
	esp := t.TempDir()
	for _, name := range slots {
		path := filepath.Join(esp, appliance.SlotDir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	m := &Machine{log: slog.New(slog.DiscardHandler), booted: time.Now(), beat: make(chan chan struct{}), orders: make(chan order, 1)}
	m.state = state{problems: map[string]string{}}
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	keys, err := update.ParseKeys(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
	if err != nil {
		t.Fatal(err)
	}
	m.state.updates, err = update.New(update.Config{
		WithESP: func(do func(update.ESP) error) error {
			d, err := update.OpenDir(esp)
			if err != nil {
				return err
			}
			defer d.Close()
			return do(d)
		},
		BootPath: func() ([]byte, error) { return nil, fs.ErrNotExist }, Keys: keys, Version: "2.0.0", Architecture: "amd64", Flavour: "cloud",
		Dir: record, Log: m.log,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m, filepath.Join(esp, appliance.SlotDir)
}

func names(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range list {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

var allWell = update.Health{API: true, Firewall: true, Tunnel: true, Store: true}

// A version on trial is kept once it was well for half a minute, and not before; what broke
// in between begins the half minute anew.
func TestGoodVersionIsKept(t *testing.T) {
	m, dir := overSlots(t, "lazaret_1.0.0.efi", "lazaret_2.0.0+2-1.efi")
	synctest.Test(t, func(t *testing.T) {
		v := verdict{m: m, started: time.Now()}
		for range 14 {
			v.look(allWell)
			time.Sleep(looks)
		}
		v.look(update.Health{API: true, Firewall: true, Tunnel: true}) // the store was gone for a moment
		time.Sleep(looks)
		for range 15 {
			v.look(allWell)
			if v.settled {
				t.Fatal("kept before half a minute without a break")
			}
			time.Sleep(looks)
		}
		v.look(allWell)
		if !v.settled {
			t.Error("not kept")
		}
	})
	if got := names(t, dir); got != "lazaret_1.0.0.efi lazaret_2.0.0.efi" {
		t.Errorf("slots are %s", got)
	}
}

// A version on trial that is not well in time is left, the boot loader is told, and the
// machine restarts. One that was found well before stays, however ill it is.
func TestBadVersionIsLeft(t *testing.T) {
	for name, x := range map[string]struct {
		slot, want string
		restarts   bool
	}{
		"on trial":          {"lazaret_2.0.0+2-1.efi", "lazaret_1.0.0.efi lazaret_2.0.0+0", true},
		"found well before": {"lazaret_2.0.0.efi", "lazaret_1.0.0.efi lazaret_2.0.0.efi", false},
	} {
		m, dir := overSlots(t, "lazaret_1.0.0.efi", x.slot)
		synctest.Test(t, func(t *testing.T) {
			v := verdict{m: m, started: time.Now()}
			for time.Since(v.started) < update.Deadline+time.Minute {
				v.look(update.Health{API: true, Firewall: true, Store: true})
				time.Sleep(looks)
			}
		})
		if got := names(t, dir); !strings.HasPrefix(got, x.want) || strings.Count(got, " ") != 1 {
			t.Errorf("%s: slots are %s, want %s", name, got, x.want)
		}
		select {
		case o := <-m.orders:
			if !x.restarts || o.how != boot.Restart {
				t.Errorf("%s: it ends: %+v", name, o)
			}
		default:
			if x.restarts {
				t.Errorf("%s: it does not restart", name)
			}
		}
	}
}

// What a person took, as for a passphrase, is not held against a version.
func TestWaitingIsNotHeldAgainstAVersion(t *testing.T) {
	m, dir := overSlots(t, "lazaret_1.0.0.efi", "lazaret_2.0.0+2-1.efi")
	synctest.Test(t, func(t *testing.T) {
		time.Sleep(8 * time.Hour)
		v := verdict{m: m, started: time.Now()}
		for range 20 {
			v.look(allWell)
			time.Sleep(looks)
		}
	})
	if got := names(t, dir); got != "lazaret_1.0.0.efi lazaret_2.0.0.efi" {
		t.Errorf("slots are %s", got)
	}
}

// Where the version before cannot be marked for the next start, the boot loader's count is
// left to do it: the machine restarts all the same.
func TestVersionThatCannotBeLeftRestarts(t *testing.T) {
	m, _ := overSlots(t, "lazaret_2.0.0+2-1.efi") // and there is no other
	synctest.Test(t, func(t *testing.T) {
		v := verdict{m: m, started: time.Now()}
		for range 400 {
			v.look(update.Health{})
			time.Sleep(looks)
		}
	})
	if len(m.orders) != 1 || m.state.problems["update"] == "" {
		t.Errorf("orders %d, problems %v", len(m.orders), m.state.problems)
	}
}

// The boot tables are ones that the firewall takes, and let in nothing but DHCPv6 from the
// link, and the claim's port while there is one.
func TestBootRules(t *testing.T) {
	for unclaimed, want := range map[bool]string{false: "udp/546 [fe80::/10]", true: "udp/546 [fe80::/10] tcp/443 []"} {
		r := bootRules(unclaimed)
		if err := r.Check(); err != nil {
			t.Error(err)
		}
		var got []string
		for _, s := range r.Outside {
			var from []string
			for _, p := range s.From {
				from = append(from, p.String())
			}
			got = append(got, string(s.Protocol)+"/"+strconv.Itoa(int(s.Port))+" ["+strings.Join(from, " ")+"]")
		}
		if strings.Join(got, " ") != want {
			t.Errorf("unclaimed %v: %s, want %s", unclaimed, got, want)
		}
		if len(r.Pools)+len(r.Inside) != 0 {
			t.Error("a boot table has pools or services in the tunnel")
		}
	}
}

// The main loop answers a sign of life until it is told to end, and the first order counts.
func TestMainLoop(t *testing.T) {
	m, _ := overSlots(t, "lazaret_2.0.0.efi")
	done := make(chan order, 1)
	go func() { done <- m.answer(make(chan order)) }()
	if err := m.alive(t.Context()); err != nil {
		t.Error(err)
	}
	m.finish(boot.PowerOff, "first")
	m.finish(boot.Restart, "second")
	if o := <-done; o.how != boot.PowerOff || o.why != "first" {
		t.Errorf("%+v", o)
	}
	ctx, stop := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer stop()
	if m.alive(ctx) == nil {
		t.Error("a loop that has ended is alive")
	}
}

// A machine whose parts stopped answering is not alive, though its main loop is.
func TestPartsThatHang(t *testing.T) {
	m, _ := overSlots(t, "lazaret_2.0.0.efi")
	done := make(chan order, 1)
	go func() { done <- m.answer(make(chan order)) }()
	defer func() { m.finish(boot.Restart, "over"); <-done }()
	m.booted = time.Now().Add(-time.Hour)
	m.stands.Store(true)
	m.looked.Store(int64((time.Hour - time.Minute).Seconds()))
	if err := m.alive(t.Context()); err != nil {
		t.Error("a minute ago:", err)
	}
	m.looked.Store(int64((time.Hour - 4*time.Minute).Seconds()))
	if m.alive(t.Context()) == nil {
		t.Error("nothing answered for four minutes, and it is alive")
	}
}

func TestURLs(t *testing.T) {
	links := []appliance.LinkIs{{Addresses: []netip.Prefix{
		netip.MustParsePrefix("192.0.2.7/24"), netip.MustParsePrefix("2001:db8::7/64"), netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("169.254.3.4/16"),
	}}}
	if got := claimURLs(links); !slices.Equal(got, []string{"https://192.0.2.7", "https://[2001:db8::7]"}) {
		t.Errorf("%q", got)
	}
	c := config.Config{}
	c.Enroll.Names = []string{"gw.example.com", "2001:db8::7"}
	c.API.Listen = []netip.AddrPort{netip.MustParseAddrPort("0.0.0.0:8443"), netip.MustParseAddrPort("[2001:db8::7]:8443")}
	want := []string{"https://gw.example.com", "https://[2001:db8::7]", "https://192.0.2.7:8443", "https://[2001:db8::7]:8443"}
	if got := urls(c, links); !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestOSRelease(t *testing.T) {
	path := filepath.Join(t.TempDir(), "os-release")
	if err := os.WriteFile(path, []byte("ID=lazaret\nPRETTY_NAME=\"Lazaret 1.2\"\n# comment\nVARIANT_ID='metal'\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := osRelease(path)
	if err != nil || got["ID"] != "lazaret" || got["PRETTY_NAME"] != "Lazaret 1.2" || got["VARIANT_ID"] != "metal" {
		t.Errorf("%v %v", got, err)
	}
	if _, err := osRelease(path + "x"); err == nil {
		t.Error("a file that is not there was read")
	}
}

// A data plane that has just started knows no pools; the tunnel's networks are protected
// from leases all the same.
func TestPoolsOutliveADataPlane(t *testing.T) {
	m, _ := overSlots(t, "lazaret_2.0.0.efi")
	own := []netip.Prefix{netip.MustParsePrefix("10.66.0.0/16")}
	m.own.Store(&own)
	m.notePools(nil)
	if got := m.pools(); !slices.Equal(got, own) {
		t.Errorf("%v are protected, want %v", got, own)
	}
}

// A version that has no slot on the partition is not found good on its word.
func TestVersionWithoutASlotIsNotKept(t *testing.T) {
	m, dir := overSlots(t, "lazaret_1.0.0.efi", "lazaret_3.0.0+3.efi")
	if err := m.bless(); err == nil {
		t.Error("kept, and there is no slot of it")
	}
	if got := names(t, dir); got != "lazaret_1.0.0.efi lazaret_3.0.0+3.efi" {
		t.Errorf("slots are %s", got)
	}
}
