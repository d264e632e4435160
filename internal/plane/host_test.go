package plane

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"lazaret/firewall"
)

// tcp is a service list with these ports.
func tcp(ports ...uint16) HostServices {
	var h HostServices
	for _, p := range ports {
		h.In = append(h.In, firewall.Service{Protocol: "tcp", Port: p, From: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}})
	}
	return h
}

// kernel takes rulesets as the data plane would.
type kernel struct {
	mu      sync.Mutex
	holds   firewall.Ruleset
	refuses int // so many more
}

func (k *kernel) set(r firewall.Ruleset) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.refuses > 0 {
		k.refuses--
		return errors.New("refused")
	}
	k.holds = r
	return nil
}

func (k *kernel) refuse(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.refuses = n
}

func (k *kernel) has(t *testing.T, when string, want HostServices) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	if !servicesOf(k.holds).Equal(want) {
		t.Errorf("%s: in force is %v, want %v", when, k.holds.Outside, want.In)
	}
	if k.holds.Tunnel != "lz0" || k.holds.ListenPort != 51820 {
		t.Errorf("%s: the rest of the rules changed: %+v", when, k.holds)
	}
}

func guardIn(t *testing.T, dir string, configured HostServices) (*hostGuard, *kernel) {
	t.Helper()
	r := firewall.Ruleset{Table: "lazaret", Tunnel: "lz0", ListenPort: 51820, Freshness: time.Minute, QuarantineLife: time.Hour}
	r.Outside, r.Out = configured.In, configured.Out
	g := newHostGuard(filepath.Join(dir, hostRecordFile), r, slog.New(slog.DiscardHandler))
	k := &kernel{holds: g.rules()}
	g.apply = k.set
	return g, k
}

func TestTriedRulesTakeThemselvesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		g, k := guardIn(t, dir, tcp(22))
		if err := g.try(tcp(80), time.Minute); err != nil {
			t.Fatal(err)
		}
		k.has(t, "tried", tcp(80))
		time.Sleep(59 * time.Second)
		k.has(t, "a second before its end", tcp(80))
		again, _ := guardIn(t, dir, tcp(80)) // the file was edited for the try
		if !servicesOf(again.rules()).Equal(tcp(22)) {
			t.Error("a data plane that starts meanwhile begins with what is being tried")
		}
		time.Sleep(time.Second)
		synctest.Wait()
		k.has(t, "at its end", tcp(22))
		if err := g.confirm(); !errors.Is(err, errNothingTried) {
			t.Errorf("confirming too late: %v", err)
		}
		k.has(t, "confirmed too late", tcp(22))
	})
}

func TestConfirmedRulesStay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		g, k := guardIn(t, dir, tcp(22))
		for _, h := range []HostServices{tcp(80), tcp(81)} { // the second takes the place of the first, and its timer too
			if err := g.try(h, time.Minute); err != nil {
				t.Fatal(err)
			}
			time.Sleep(40 * time.Second)
		}
		k.has(t, "when the first one would have ended", tcp(81))
		if err := g.confirm(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)
		k.has(t, "later", tcp(81))
		if s := g.state(); !s.Until.IsZero() || !s.Confirmed.Equal(tcp(81)) {
			t.Errorf("state %+v", s)
		}
		again, _ := guardIn(t, dir, tcp(22))
		if !servicesOf(again.rules()).Equal(tcp(81)) {
			t.Error("a data plane that starts again does not begin with what was confirmed")
		}
		if err := g.try(tcp(82), time.Minute); err != nil {
			t.Fatal(err)
		}
		g.end()
		k.has(t, "ended in a try", tcp(81))
	})
}

func TestRevertThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, k := guardIn(t, t.TempDir(), tcp(22))
		if err := g.try(tcp(80), time.Minute); err != nil {
			t.Fatal(err)
		}
		k.refuse(3)
		time.Sleep(time.Minute + 3*revertAgain - time.Millisecond)
		k.has(t, "refused three times", tcp(80))
		if err := g.confirm(); !errors.Is(err, errNothingTried) {
			t.Errorf("confirming after the end, while the kernel refuses to go back: %v", err)
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		k.has(t, "at the fourth", tcp(22))
	})
}

// TestConfirmThatFailsIsForgotten: writing the record fails after the new file took the
// old one's place, as syncing a directory may. What was not confirmed must not be what the
// next data plane starts with.
func TestConfirmThatFailsIsForgotten(t *testing.T) {
	for _, failures := range []int{1, 3} { // the confirm's own; two more while mending
		synctest.Test(t, func(t *testing.T) {
			dir := t.TempDir()
			g, k := guardIn(t, dir, tcp(22))
			if err := g.try(tcp(80), time.Minute); err != nil {
				t.Fatal(err)
			}
			left := failures
			g.write = func(path string, text []byte) error {
				if left--; left == failures-1 { // in place, and an error all the same
					return errors.Join(writeDurably(path, text), errors.New("not synced"))
				}
				if left >= 0 {
					return errors.New("not written")
				}
				return writeDurably(path, text)
			}
			if g.confirm() == nil {
				t.Error("confirmed, although the record was not written")
			}
			k.has(t, "not confirmed, and still tried", tcp(80))
			time.Sleep(time.Duration(failures) * mendAgain)
			synctest.Wait()
			again, _ := guardIn(t, dir, tcp(80))
			if !servicesOf(again.rules()).Equal(tcp(22)) {
				t.Errorf("a data plane that starts after %d failures begins with what nobody confirmed", failures)
			}
			if err := g.confirm(); err != nil {
				t.Errorf("confirming once more: %v", err)
			}
			time.Sleep(time.Hour)
			again, _ = guardIn(t, dir, tcp(22))
			if k.has(t, "confirmed", tcp(80)); !servicesOf(again.rules()).Equal(tcp(80)) {
				t.Error("what was confirmed in the end is not recorded")
			}
		})
	}
}

// TestEndMendsTheRecord: what could not be mended in time is mended at the end.
func TestEndMendsTheRecord(t *testing.T) {
	dir := t.TempDir()
	g, k := guardIn(t, dir, tcp(22))
	if err := g.try(tcp(80), time.Minute); err != nil {
		t.Fatal(err)
	}
	g.write = func(path string, text []byte) error {
		return errors.Join(writeDurably(path, text), errors.New("not synced"))
	}
	if g.confirm() == nil {
		t.Error("confirmed, although the record was not written")
	}
	if err := writeDurably(filepath.Join(dir, hostRecordFile), mustJSON(t, newHostRecord(tcp(80)))); err != nil {
		t.Fatal(err)
	}
	g.write = writeDurably
	g.end()
	again, _ := guardIn(t, dir, tcp(80))
	if k.has(t, "ended", tcp(22)); !servicesOf(again.rules()).Equal(tcp(22)) {
		t.Error("a data plane that ended begins with what nobody confirmed")
	}
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	text, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTryRefuses(t *testing.T) {
	dir := t.TempDir()
	g, k := guardIn(t, dir, tcp(22))
	for _, d := range []time.Duration{0, -time.Hour, ShortestTry - 1, LongestTry + 1} {
		if g.try(tcp(80), d) == nil {
			t.Errorf("tried for %s", d)
		}
	}
	bad := tcp(80)
	bad.In[0].Protocol = "sctp"
	if g.try(bad, time.Minute) == nil {
		t.Error("rules with a fault were tried")
	}
	k.has(t, "refused", tcp(22))
	k.refuse(1)
	if err := g.try(tcp(80), time.Minute); err == nil || !g.state().Until.IsZero() {
		t.Errorf("the kernel refused, and the try says %v", err)
	}
	k.has(t, "refused by the kernel", tcp(22))
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	other, k2 := guardIn(t, filepath.Join(dir, "gone"), tcp(22))
	if other.try(tcp(80), time.Minute) == nil {
		t.Error("tried although a restart could not know what was before")
	}
	k2.has(t, "without a record", tcp(22))
}

// A record that cannot be used gives way to the configuration: dropping by default with
// the administrator's own list, and never an open host.
func TestDamagedRecord(t *testing.T) {
	for _, text := range []string{"", "{", "null", `{"version":2,"in":[],"out":[]}`, `{"version":1,"in":[{"protocol":"sctp","port":1}],"out":[]}`,
		`{"version":1,"in":[],"out":[]} {}`, `{"version":1,"in":[],"out":[],"more":1}`} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, hostRecordFile), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		g, _ := guardIn(t, dir, tcp(22))
		if !servicesOf(g.rules()).Equal(tcp(22)) {
			t.Errorf("record %q: in force is %v", text, g.rules().Outside)
		}
	}
}

func FuzzHostRequest(f *testing.F) {
	for _, s := range []string{
		`{"version":1,"do":"show"}`, `{"version":1,"do":"try","seconds":120,"services":{"version":1,"in":[{"protocol":"tcp","port":22,"networks":["192.0.2.0/24"]}],"out":[]}}`,
		`{"version":1,"do":"confirm"} x`, `{"version":2,"do":"show"}`, `{"version":1,"do":"try"}`, `[]`, ``,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseHostRequest(text)
		if err != nil {
			return
		}
		if r.Do != hostTry {
			if r.Services != nil {
				t.Fatalf("%q brings services", text)
			}
			return
		}
		g, k := guardIn(t, "/nonexistent", tcp(22))
		g.recorded = true // the file is none of this
		if g.try(r.Services.services(), time.Minute) == nil {
			if err := k.holds.Check(); err != nil {
				t.Fatalf("%q got through with %v", text, err)
			}
			g.settle()
		}
	})
}

func TestUnknownRequest(t *testing.T) {
	g, _ := guardIn(t, t.TempDir(), tcp(22))
	_, err := hostDoor{guard: g}.do(hostRequest{Do: "open"})
	if err == nil || !strings.Contains(fmt.Sprint(err), "unknown") {
		t.Errorf("an unknown request: %v", err)
	}
}

// The rules that the data plane holds come through the socket as they are.
func TestHeldRulesSurviveTheWire(t *testing.T) {
	r := firewall.Ruleset{
		Table: "lazaret", Tunnel: "lz0", ListenPort: 51820, Freshness: time.Minute, QuarantineLife: time.Hour,
		Gateway: []netip.Addr{netip.MustParseAddr("10.66.0.1"), netip.MustParseAddr("fd66::1")}, Outside: tcp(22).In,
		Pools: []firewall.Pool{
			{Name: "q", IPv4: netip.MustParsePrefix("10.66.0.0/16"), Reach: []firewall.Reach{{To: netip.MustParsePrefix("192.0.2.10/32"), Protocol: "tcp", From: 443, Up: 444}}},
			{Name: "f", Mark: 1, IPv6: netip.MustParsePrefix("fd67::/64"), Masquerade: true},
		},
	}
	text, err := json.Marshal(hostAnswer{Version: hostVersion, Held: &r})
	if err != nil {
		t.Fatal(err)
	}
	var a hostAnswer
	if err := json.Unmarshal(text, &a); err != nil || !reflect.DeepEqual(*a.Held, r) {
		t.Errorf("came through as %+v, %v", a.Held, err)
	}
}
