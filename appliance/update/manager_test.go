package update

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
)

// names are the slots that there are, which are those that the manager remembers, if any.
func names(t *testing.T, m *Manager) string {
	t.Helper()
	var l layout
	if err := m.cfg.WithESP(func(esp ESP) (err error) { l, err = look(esp, m.cfg.Version); return err }); err != nil {
		t.Fatal(err)
	}
	if seen := m.Slots(); seen != nil && !slices.Equal(seen, l.slots) {
		t.Errorf("there are %+v, and it remembers %+v", l.slots, seen)
	}
	var out []string
	for _, s := range l.slots {
		mark := ""
		if s.Booted {
			mark = "*"
		}
		out = append(out, strings.TrimPrefix(s.File, slotPrefix)+mark)
	}
	return strings.Join(out, " ")
}

func fresh(room int64, files ...string) *model {
	all := map[string][]byte{}
	for _, f := range files {
		s, _ := ParseSlot(f)
		all[f] = image(s.Version)
	}
	return newModel(1, room, all)
}

const wide = 100 << 20

// TestUpdateComesThrough stages, starts and blesses a version, and goes back by hand.
func TestUpdateComesThrough(t *testing.T) {
	esp, dir := fresh(wide, SlotName(old)), t.TempDir()
	m := manager(t, esp, dir, old, "")
	if err := m.Begin(); err != nil {
		t.Fatal(err)
	}
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(2))
	if _, file, err := m.Stage(t.Context(), bytes.NewReader(bundle), true); err != nil || file != "lazaret_1.1.0+3.efi" {
		t.Fatal(file, err)
	}
	if got := names(t, m); got != "1.1.0+3.efi 1.0.0.efi*" || m.Is().Staged != new_ {
		t.Errorf("staged: %s, %+v", got, m.Is())
	}
	name, path, err := esp.start()
	if err != nil || name != "lazaret_1.1.0+2-1.efi" {
		t.Fatal(name, err)
	}
	m = manager(t, esp, dir, new_, path)
	if err := m.Begin(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundleOf(t, testManifest("2.0.0", older), image("2"), testKey(1))), false); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "on trial") {
		t.Errorf("an update while one is on trial: %v", err)
	}
	if trial, err := m.Trial(); err != nil || !trial {
		t.Errorf("trial %v, %v", trial, err)
	}
	if err := m.Bless(); err != nil {
		t.Fatal(err)
	}
	if got, is := names(t, m), m.Is(); got != "1.1.0.efi* 1.0.0.efi" || is.Last != "version 1.1.0 followed version 1.0.0 and was found well" || is.Staged != "" {
		t.Errorf("blessed: %s, %+v", got, is)
	}
	if to, err := m.Rollback(); err != nil || to != old {
		t.Fatal(to, err)
	}
	if name, _, _ := esp.start(); name != SlotName(old) {
		t.Errorf("after going back, %s is started", name)
	}
	m = manager(t, esp, dir, old, "")
	if err := m.Begin(); err != nil || m.Is().Last != "version 1.1.0 was left by hand; version 1.0.0 runs" {
		t.Errorf("%v, %q", err, m.Is().Last)
	}
	if _, err := m.Rollback(); !errors.Is(err, appliance.ErrRefused) {
		t.Errorf("going back to nothing that was well: %v", err)
	}
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), true); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "came back") {
		t.Errorf("unasked, what a person left: %v", err)
	}
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); err != nil {
		t.Errorf("a person tries it again: %v", err)
	}
}

// TestBadUpdateGoesBack has a version that never comes so far as to bless itself, and one
// that finds itself ill.
func TestBadUpdateGoesBack(t *testing.T) {
	esp, dir := fresh(wide, SlotName(old)), t.TempDir()
	stage := func() *Manager {
		m := manager(t, esp, dir, old, "")
		if err := m.Begin(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundleOf(t, testManifest(new_, older), image(new_), testKey(1))), false); err != nil {
			t.Fatal(err)
		}
		return m
	}
	stage()
	for range Tries {
		if name, _, _ := esp.start(); !strings.HasPrefix(name, "lazaret_1.1.0+") {
			t.Fatalf("%s is started", name)
		}
	}
	if name, _, _ := esp.start(); name != SlotName(old) {
		t.Fatalf("after %d tries %s is started", Tries, name)
	}
	m := manager(t, esp, dir, old, "")
	if err := m.Begin(); err != nil {
		t.Fatal(err)
	}
	if _, _, failed := m.Settings(); failed != new_ || m.Is().Last != "version 1.1.0 was started 3 times and was not found well; version 1.0.0 runs again" || names(t, m) != "1.0.0.efi*" {
		t.Errorf("%q, %q, %s", failed, m.Is().Last, names(t, m))
	}
	stage()
	_, path, _ := esp.start()
	m = manager(t, esp, dir, new_, path)
	if err := errors.Join(m.Begin(), m.GiveUp("the tunnel is down")); err != nil {
		t.Fatal(err)
	}
	if name, _, _ := esp.start(); name != SlotName(old) {
		t.Errorf("after it gave up, %s is started", name)
	}
	if m = manager(t, esp, dir, old, ""); m.Begin() != nil || m.Is().Last != "version 1.1.0 was left for version 1.0.0: the tunnel is down" {
		t.Errorf("%q", m.Is().Last)
	}
}

// TestRoom: the oldest goes for want of room, and never the one that runs.
func TestRoom(t *testing.T) {
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	for _, c := range []struct {
		name string
		room int64
		has  []string
		want string // empty: refused
	}{
		{"room for all", wide, []string{SlotName("0.8.0"), SlotName(older), SlotName(old)}, "1.1.0+3.efi 1.0.0.efi* 0.9.0.efi 0.8.0.efi"},
		{"room for three", 3*imageSize + margin, []string{SlotName("0.8.0"), SlotName(older), SlotName(old)}, "1.1.0+3.efi 1.0.0.efi* 0.9.0.efi"},
		{"a bad one first", 3*imageSize + margin, []string{SlotName(older), SlotName(old), countedName("1.0.5", 0, 3)}, "1.1.0+3.efi 1.0.0.efi* 0.9.0.efi"},
		{"room for one", imageSize + margin, []string{SlotName(older), SlotName(old)}, ""},
	} {
		m := manager(t, fresh(c.room, c.has...), t.TempDir(), old, "")
		_, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false)
		switch got := names(t, m); {
		case c.want == "" && (!errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "no room") || !strings.Contains(got, "1.0.0.efi*")):
			t.Errorf("%s: %s, %v", c.name, got, err)
		case c.want != "" && (err != nil || got != c.want):
			t.Errorf("%s: %s, %v; want %s", c.name, got, err, c.want)
		}
	}
}

// TestBadBundleChangesNothing: neither does one whose sender goes away.
func TestBadBundleChangesNothing(t *testing.T) {
	esp := fresh(wide, SlotName(older), SlotName(old))
	m := manager(t, esp, t.TempDir(), old, "")
	bundle := bundleOf(t, testManifest(new_, older), image(new_), testKey(1))
	bundle[len(bundle)-1] ^= 1
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundle), false); !errors.Is(err, appliance.ErrRefused) {
		t.Errorf("another image: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := m.Stage(ctx, bytes.NewReader(bundle), false); !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits: %v", err)
	}
	if all, _ := esp.List(); len(all) != 2 || m.Is().Staged != "" {
		t.Errorf("there are %v, %+v", all, m.Is())
	}
}

// TestBless: each part counts, and time.
func TestBless(t *testing.T) {
	good := Health{API: true, Firewall: true, Tunnel: true, Store: true, Steady: Steady, Up: time.Minute}
	if ok, why := Bless(good); !ok || why != "" {
		t.Error(ok, why)
	}
	if ok, _ := Bless(Health{}); ok {
		t.Error("the zero health is well")
	}
	for want, spoil := range map[string]func(*Health){
		"the API does not answer":         func(h *Health) { h.API = false },
		"the firewall is not as recorded": func(h *Health) { h.Firewall = false },
		"the tunnel is down":              func(h *Health) { h.Tunnel = false },
		"the store is not healthy":        func(h *Health) { h.Store = false },
		"well for 29s of 30s":             func(h *Health) { h.Steady -= time.Second },
	} {
		h := good
		spoil(&h)
		if ok, why := Bless(h); ok || why != want {
			t.Errorf("%v, %q; want %q", ok, why, want)
		}
		if Overdue(h) {
			t.Error("overdue after a minute")
		}
		if h.Up = Deadline; !Overdue(h) {
			t.Error("not overdue at the deadline")
		}
	}
}

// TestSchemas: a version with a newer schema works on data of which there is a copy, which
// comes back with the version before.
func TestSchemas(t *testing.T) {
	esp, dir, state := fresh(wide, SlotName(old), countedName(new_, 2, 1)), t.TempDir(), filepath.Join(t.TempDir(), "state")
	at := filepath.Join(state, "etcd", "db")
	put := func(text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	run := func(version string, schema int) (*Manager, error) {
		m := manager(t, esp, dir, version, "", func(c *Config) { c.Schema, c.State = schema, []string{state} })
		return m, m.Begin()
	}
	text := func() string { b, _ := os.ReadFile(at); return string(b) }
	put("one")
	if _, err := run(old, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := run(new_, 2); err != nil {
		t.Fatal(err)
	}
	put("two")
	if _, err := run(old, 1); err != nil || text() != "one" {
		t.Errorf("after the version before came back: %q, %v", text(), err)
	}
	m, err := run(new_, 2)
	if err != nil {
		t.Fatal(err)
	}
	put("two")
	if err := m.Bless(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Rollback(); !errors.Is(err, appliance.ErrRefused) || !strings.Contains(err.Error(), "reads data of schema 1, and they are of 2 now") {
		t.Errorf("going back to what cannot read the data: %v", err)
	}
	if _, err := run(old, 1); !errors.Is(err, appliance.ErrRefused) || text() != "two" {
		t.Errorf("data that the version cannot read: %v, %q", err, text())
	}
}

// TestBootPath reads what efivarfs shows.
func TestBootPath(t *testing.T) {
	text, _ := variable(`\EFI\Linux\lazaret_1.1.0+2-1.efi`)()
	if name, err := ParseBootPath(text); err != nil || name != "lazaret_1.1.0+2-1.efi" {
		t.Error(name, err)
	}
	for _, bad := range []string{`\EFI\Linux\other.efi`, `\EFI\BOOT\lazaret_1.1.0+2-1.efi`, `\EFI\Linux\lazaret_1.1.0+x.efi`, ``} {
		text, _ := variable(bad + " ")()
		if name, err := ParseBootPath(text[:len(text)-2]); err == nil {
			t.Errorf("%q is %q", bad, name)
		}
	}
	m := manager(t, fresh(wide, countedName(new_, 2, 1)), t.TempDir(), new_, `\EFI\Linux\lazaret_1.0.0+2-1.efi`)
	if err := m.Bless(); err == nil {
		t.Error("a slot was blessed that the boot loader did not start")
	}
}

// TestKeys reads keys as openssl writes them.
func TestKeys(t *testing.T) {
	var text []byte
	for n := range byte(2) {
		der, err := x509.MarshalPKIXPublicKey(testKey(n + 1).Public())
		if err != nil {
			t.Fatal(err)
		}
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	if keys, err := ParseKeys(text); err != nil || len(keys) != 2 {
		t.Error(keys, err)
	}
	for _, bad := range [][]byte{nil, []byte("x"), append([]byte("x\n"), text...)[:len(text)/2], append(text[:len(text):len(text)], "junk"...), bytes.Repeat(text, 3)[:0]} {
		if keys, err := ParseKeys(bad); err == nil {
			t.Errorf("%q are %v", bad, keys)
		}
	}
}

// TestDirectory stages into a real directory.
func TestDirectory(t *testing.T) {
	mounted := t.TempDir()
	d, err := OpenDir(mounted)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	m := manager(t, d, t.TempDir(), old, "")
	if _, _, err := m.Stage(t.Context(), bytes.NewReader(bundleOf(t, testManifest(new_, older), image(new_), testKey(1))), false); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(mounted, appliance.SlotDir, "lazaret_1.1.0+3.efi"))
	if err != nil || !bytes.Equal(text, image(new_)) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}
