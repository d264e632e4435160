package modules

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"lazaret/appliance"
	"lazaret/internal/testneed"
)

// kernel stands for the kernel: it notes what it was given.
type kernel struct {
	mu    sync.Mutex
	given []string
	with  map[string]string // options, of those that were given some
	hook  func(name string) error
}

func (k *kernel) insert(path, options string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	name := strings.TrimSuffix(filepath.Base(path), ".ko.xz")
	k.given = append(k.given, name)
	if options != "" {
		k.with[name] = options
	}
	if k.hook != nil {
		return k.hook(name)
	}
	return nil
}

func newLoader(t *testing.T) (*Loader, *kernel) {
	t.Helper()
	module := func(name string, needs []string, aliases ...string) appliance.Module {
		return appliance.Module{Name: name, Path: "kernel/" + name + ".ko.xz", Needs: needs, Aliases: aliases}
	}
	index, err := appliance.NewModuleIndex("6.12", []appliance.Module{
		module("virtio", nil), module("virtio_ring", []string{"virtio"}),
		module("virtio_pci", []string{"virtio_ring"}, "pci:v00001AF4d*"),
		module("virtio_net", []string{"virtio_ring"}, "virtio:d00000001v*"),
		module("libata", nil), module("ahci", []string{"libata"}, "pci:v00008086d00002922sv*"), module("dm_mod", nil), module("dm_crypt", []string{"dm_mod"}), module("broken", nil, "pci:v0000BAD0d*"), module("i6300esb", nil, "pci:v00008086d000025ABsv*"),
	}, []string{"ext4"})
	if err != nil {
		t.Fatal(err)
	}
	k := &kernel{with: map[string]string{}}
	l := New(Config{Index: index, Log: slog.New(slog.DiscardHandler), Dir: "/lib/modules/6.12", Sys: t.TempDir()})
	l.insert = k.insert
	return l, k
}

// device makes one as sysfs shows it (Documentation/admin-guide/sysfs-rules.rst): a directory
// below devices, and a link to it from its bus.
func device(t *testing.T, l *Loader, path, alias string) {
	t.Helper()
	bus, _, _ := strings.Cut(alias, ":")
	plain(t, l, "devices/"+path, alias)
	link := filepath.Join(l.c.Sys, "bus", bus, "devices", filepath.Base(path))
	if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o700), os.Symlink(filepath.Join(l.c.Sys, "devices", path), link)); err != nil {
		t.Fatal(err)
	}
}

func plain(t *testing.T, l *Loader, path, alias string) {
	t.Helper()
	dir := filepath.Join(l.c.Sys, path)
	if err := errors.Join(os.MkdirAll(dir, 0o700), os.WriteFile(filepath.Join(dir, "modalias"), []byte(alias+"\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// TestPlaces: all that says what it is below /sys/devices of this machine is looked at.
func TestPlaces(t *testing.T) {
	want := map[string]bool{}
	err := filepath.WalkDir("/sys/devices", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.Name() != "modalias" {
			return nil // gone, or not for us
		}
		if text, err := os.ReadFile(path); err == nil && len(bytes.TrimSpace(text)) > 0 {
			want[string(bytes.TrimSpace(text))] = true
		}
		return nil
	})
	if err != nil || len(want) == 0 {
		testneed.Skip(t, "needs a machine that shows its devices below /sys")
	}
	l, _ := newLoader(t)
	l.c.Sys = "/sys"
	got := map[string]bool{}
	for _, a := range l.aliases() {
		got[a] = true
	}
	if !maps.Equal(got, want) {
		t.Errorf("found %v\nwant %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	if again := l.aliases(); len(again) != 0 {
		t.Errorf("found a second time: %v", again)
	}
}

// TestKindsOfDevices: what a class shows, and what processors say, is served like a bus's.
func TestKindsOfDevices(t *testing.T) {
	l, k := newLoader(t)
	plain(t, l, "class/input/input3", "pci:v00008086d000025ABsv00")
	plain(t, l, "devices/system/cpu", "pci:v0000BAD0d00001000sv")
	if err := l.Devices(); err != nil {
		t.Fatal(err)
	}
	slices.Sort(k.given)
	if want := []string{"broken", "i6300esb"}; !slices.Equal(k.given, want) {
		t.Errorf("given %v, want %v", k.given, want)
	}
}

// TestATA: nobody waits for the disks of an ATA controller but who loads the last of what is
// wanted besides, whatever of that is compiled in or loaded already.
func TestATA(t *testing.T) {
	l, k := newLoader(t)
	device(t, l, "pci0000:00/0000:00:01.0", "pci:v00008086d00002922sv")
	device(t, l, "pci0000:00/0000:00:02.0", "pci:v00001AF4d00001000sv")
	if err := l.Look(); err != nil {
		t.Fatal(err)
	}
	if err := l.Load("dm_crypt", "i6300esb", "dm_mod", "virtio_pci", "ext4"); err != nil {
		t.Fatal(err)
	}
	if want := []string{"virtio", "virtio_ring", "virtio_pci", "libata", "ahci", "dm_mod", "dm_crypt", "i6300esb"}; !slices.Equal(k.given, want) {
		t.Errorf("given %v, want %v", k.given, want)
	}
	if want := map[string]string{"libata": "async_probe", "ahci": "async_probe", "dm_mod": "async_probe", "dm_crypt": "async_probe"}; !maps.Equal(k.with, want) {
		t.Errorf("given with %v, want %v", k.with, want)
	}
}

// TestLateATA: what only shows up then is waited for.
func TestLateATA(t *testing.T) {
	l, k := newLoader(t)
	device(t, l, "pci0000:00/0000:00:02.0", "pci:v00001AF4d00001000sv")
	k.hook = func(name string) error {
		if name == "virtio_pci" {
			device(t, l, "pci0000:00/0000:00:02.0/0000:01:01.0", "pci:v00008086d00002922sv")
		}
		return nil
	}
	if err := errors.Join(l.Look(), l.Load("dm_mod"), l.Devices()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"virtio", "virtio_ring", "virtio_pci", "dm_mod", "libata", "ahci"}; !slices.Equal(k.given, want) || len(k.with) != 0 {
		t.Errorf("given %v with %v, want %v", k.given, k.with, want)
	}
}

// TestDevices: the modules of the devices there are, and of those behind them, each once and
// what it needs before it; one that fails stops no other.
func TestDevices(t *testing.T) {
	l, k := newLoader(t)
	device(t, l, "pci0000:00/0000:00:01.0", "pci:v0000BAD0d00001000sv")
	device(t, l, "pci0000:00/0000:00:02.0", "pci:v00001AF4d00001000sv")
	device(t, l, "pci0000:00/0000:00:03.0", "pci:v00001AF4d00001000sv")
	device(t, l, "pci0000:00/0000:00:04.0", "pci:v0000FFFFd00001000sv")
	k.hook = func(name string) error {
		switch name {
		case "virtio_pci": // brings a device up
			device(t, l, "pci0000:00/0000:00:02.0/virtio0", "virtio:d00000001v00001AF4")
		case "broken":
			return errors.New("invalid module format")
		}
		return nil
	}
	if err := l.Devices(); err == nil || !strings.Contains(err.Error(), "invalid module format") {
		t.Errorf("the broken module: %v", err)
	}
	if want := []string{"broken", "virtio", "virtio_ring", "virtio_pci", "virtio_net"}; !slices.Equal(k.given, want) {
		t.Errorf("given %v, want %v", k.given, want)
	}
	if err := l.Devices(); err != nil || len(k.given) != 5 {
		t.Errorf("a second look gave %v: %v", k.given, err)
	}
}

func TestLoad(t *testing.T) {
	l, k := newLoader(t)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			if err := l.Load("virtio-net", "ext4"); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if want := []string{"virtio", "virtio_ring", "virtio_net"}; !slices.Equal(k.given, want) {
		t.Errorf("given %v, want %v", k.given, want)
	}
	if err := l.Load("nothing"); err == nil {
		t.Error("loaded what there is not")
	}
	if n := len(l.Loaded()); n != 3 {
		t.Errorf("%d loaded", n)
	}
}

func TestEvents(t *testing.T) {
	l, k := newLoader(t)
	changed, other := l.Changed(), l.Changed()
	tell := func(fields ...string) {
		e, ok := parse([]byte(strings.Join(fields, "\x00") + "\x00"))
		if !ok {
			t.Fatalf("not parsed: %q", fields)
		}
		l.handle(e)
	}
	tell("add@/devices/pci0000:00/0000:00:09.0", "ACTION=add", "SUBSYSTEM=pci", "MODALIAS=pci:v00008086d000025ABsv00")
	if !slices.Equal(k.given, []string{"i6300esb"}) || len(changed) != 0 {
		t.Errorf("given %v", k.given)
	}
	tell("remove@/devices/x", "SUBSYSTEM=pci", "MODALIAS=virtio:d00000001v00001AF4")
	if len(k.given) != 1 {
		t.Errorf("for a device that goes: %v", k.given)
	}
	tell("add@/devices/y/block/vda", "SUBSYSTEM=block")
	tell("remove@/devices/y/net/eth0", "SUBSYSTEM=net")
	if len(changed) != 1 || len(other) != 1 {
		t.Error("nobody was told")
	}
	if _, ok := parse([]byte("libudev\x00\xfe\xed\xca\xfe")); ok {
		t.Error("another program's message was read")
	}
}

// TestRun: it hears the kernel, where that may be asked, and ends.
func TestRun(t *testing.T) {
	l, k := newLoader(t)
	device(t, l, "pci0000:00/0000:00:02.0", "pci:v00001AF4d00001000sv")
	changed := l.Changed()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- l.Run(ctx) }()
	select {
	case <-changed:
	case err := <-done:
		t.Fatal(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !slices.Contains(k.given, "virtio_pci") {
		t.Errorf("given %v", k.given)
	}
}

func FuzzEvent(f *testing.F) {
	f.Add([]byte("add@/devices/x\x00ACTION=add\x00SUBSYSTEM=net\x00MODALIAS=pci:v1\x00"))
	f.Add([]byte("@\x00=\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, ok := parse(b); ok && e.action == "" {
			t.Error("an event without an action")
		}
	})
}
