package button

import (
	"context"
	"encoding/binary"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// devices is a directory of pipes that stand for input devices.
type devices struct {
	dir     string
	changed chan struct{}
}

// add makes a device, held open from its other end.
func (d *devices) add(t *testing.T, name string) *os.File {
	t.Helper()
	path := filepath.Join(d.dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	select {
	case d.changed <- struct{}{}:
	default:
	}
	return f
}

// event is one as Linux has it on 64 bits: two numbers of eight bytes are its time.
func event(kind, code uint16, value uint32) []byte {
	b := make([]byte, 16, 24)
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, code)
	return binary.NativeEndian.AppendUint32(b, value)
}

// TestRun: a power key that goes down counts, of devices that have one, whenever they come;
// other keys, other events and letting go do not.
func TestRun(t *testing.T) {
	d := &devices{dir: t.TempDir(), changed: make(chan struct{}, 1)}
	asked := make(chan string, 16)
	c := Config{Log: slog.New(slog.DiscardHandler), Changed: d.changed, Dir: d.dir, has: func(f *os.File) (bool, error) {
		asked <- filepath.Base(f.Name())
		return !strings.HasSuffix(f.Name(), "9"), nil
	}}
	early := d.add(t, "event0")
	ctx, cancel := context.WithCancel(t.Context())
	pressed, ended := make(chan struct{}, 16), make(chan error, 1)
	go func() { ended <- Run(ctx, c, func() { pressed <- struct{}{} }) }()
	for _, step := range [][]byte{event(1, 30, 1), event(0, 116, 1), event(1, 116, 0), event(1, 116, 2), event(1, 116, 1)} {
		if _, err := early.Write(step); err != nil {
			t.Fatal(err)
		}
	}
	<-pressed // the last alone: what came before is read by then
	mouse, late := d.add(t, "event9"), d.add(t, "event10")
	if _, err := mouse.Write(event(1, 116, 1)); err != nil { // to nobody
		t.Fatal(err)
	}
	if _, err := late.Write(append(event(1, 30, 1), event(1, 116, 1)...)); err != nil {
		t.Fatal(err)
	}
	<-pressed
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if len(pressed) != 0 {
		t.Errorf("pressed %d times more", len(pressed))
	}
}

// TestNoDevice: what is no input device has no power key.
func TestNoDevice(t *testing.T) {
	f, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if has, err := hasPower(f); has || err == nil {
		t.Errorf("%v, %v", has, err)
	}
}

// TestPresses: each event by itself, and several at once.
func TestPresses(t *testing.T) {
	for name, x := range map[string]struct {
		events []byte
		want   bool
	}{
		"down": {event(1, 116, 1), true}, "up": {event(1, 116, 0), false}, "held": {event(1, 116, 2), false}, "another key": {event(1, 30, 1), false},
		"no key": {event(0, 116, 1), false}, "second": {append(event(1, 30, 1), event(1, 116, 1)...), true}, "half": {event(1, 116, 1)[:23], false}, "nothing": {nil, false},
	} {
		if got := presses(x.events); got != x.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
