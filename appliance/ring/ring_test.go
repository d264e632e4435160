package ring

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"
)

func texts(lines []Line) string {
	var all []string
	for _, l := range lines {
		all = append(all, fmt.Sprint(l.Origin, " ", int(l.Level), " ", l.Text))
	}
	return strings.Join(all, "\n")
}

func TestTail(t *testing.T) {
	var console bytes.Buffer
	r := New(Config{Console: &console})
	r.Add("machine", Info, "first")
	r.Add("serve", Error, "second\r\n")
	r.Add("serve", Critical, "an \x1b[31mescape\x07\u009b and\ttab")
	r.Add("kernel", Critical, "the kernel's own")
	if got, want := texts(r.Tail(2, Filter{})), "serve 2 an ?[31mescape?? and tab\nkernel 2 the kernel's own"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got := texts(r.Tail(9, Filter{Origin: "serve", Most: Error, Text: "sec"})); got != "serve 3 second" {
		t.Errorf("%q", got)
	}
	if got := r.Tail(9, Filter{Since: time.Now().Add(time.Hour)}); len(got) != 0 {
		t.Errorf("%v", got)
	}
	if got := console.String(); got != "serve: an ?[31mescape?? and tab\n" {
		t.Errorf("on the console: %q", got)
	}
}

// TestBounded: what is held is bounded however much is said, and it is the newest.
func TestBounded(t *testing.T) {
	r := New(Config{Size: 64 << 10})
	for i := range 200_000 {
		r.Add("serve", Info, fmt.Sprint("line ", i))
	}
	r.Add("serve", Info, strings.Repeat("x", 1<<20))
	all := r.Tail(1<<30, Filter{})
	size := 0
	for _, l := range all {
		size += weight(l)
	}
	if size > 64<<10 || size < 48<<10 || cap(r.lines) > 8192 {
		t.Errorf("%d bytes in %d lines, room for %d", size, len(all), cap(r.lines))
	}
	if got := all[len(all)-2].Text; got != "line 199999" {
		t.Errorf("the last but one is %q", got)
	}
	if n := len(all[len(all)-1].Text); n != longest+3 {
		t.Errorf("a long line has %d bytes", n)
	}
}

// TestFollow: lines of any length and in any number, and what was left out is said.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // its clock stands still
		r := New(Config{})
		var in strings.Builder
		in.WriteString("level=WARN msg=a\n" + strings.Repeat("y", 10_000) + "\n{\"level\":\"ERROR\"}\npanic: b\n\n")
		for i := range 2000 {
			fmt.Fprintln(&in, "n", i)
		}
		in.WriteString("the end has no line's end")
		r.Follow("serve", strings.NewReader(in.String()))
		all := r.Tail(1<<20, Filter{})
		if len(all) != burst+1 {
			t.Errorf("%d lines", len(all))
		}
		if got, want := texts(all[:1])+texts(all[2:4]), "serve 4 level=WARN msg=aserve 3 {\"level\":\"ERROR\"}\nserve 2 panic: b"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		if n := len(all[1].Text); n != longest+3 {
			t.Errorf("a long line has %d bytes", n)
		}
		if got, want := all[burst].Text, fmt.Sprintf("(%d lines were left out: too many at once)", 2000+6-burst); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	})
}

func TestWriter(t *testing.T) {
	r := New(Config{})
	log := slog.New(slog.NewTextHandler(r.Writer("machine"), nil))
	log.Error("broken", "part", "serve")
	fmt.Fprint(r.Writer("other"), "half")
	all := r.Tail(9, Filter{})
	if len(all) != 1 || all[0].Level != Error || !strings.Contains(all[0].Text, "msg=broken part=serve") {
		t.Errorf("%+v", all)
	}
}

// TestWriterBounded: what the machine itself says is limited, too, and a flood of it hides no error.
func TestWriterBounded(t *testing.T) {
	now := time.Unix(1e9, 0)
	r := New(Config{Now: func() time.Time { return now }})
	log := slog.New(slog.NewTextHandler(r.Writer("machine"), nil))
	for range 40_000 {
		log.Warn("refused")
	}
	log.Error("broken")
	now = now.Add(time.Second)
	log.Info("later")
	all := r.Tail(1<<20, Filter{})
	if len(all) != burst+3 || !strings.Contains(all[burst].Text, "msg=broken") || !strings.Contains(all[burst+2].Text, "msg=later") {
		t.Fatalf("%d lines, the last are %s", len(all), texts(r.Tail(3, Filter{})))
	}
	if got, want := all[burst+1].Text, fmt.Sprintf("(%d lines were left out: too many at once)", 40_000-burst); got != want {
		t.Errorf("%q, want %q", got, want)
	}
	for range 2 * burst {
		log.Error("broken")
	}
	if got := len(r.Tail(1<<20, Filter{Most: Error})); got > burst+1 {
		t.Errorf("%d errors at once", got)
	}
}

func TestSave(t *testing.T) {
	r := New(Config{Now: func() time.Time { return time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC) }})
	r.Add("serve", Info, "said")
	path := filepath.Join(t.TempDir(), "log")
	if err := r.Save(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	info, _ := os.Stat(path)
	if err != nil || string(text) != "2026-01-02T03:04:05.006Z serve 6 said\n" || info.Mode() != 0o600 {
		t.Errorf("%q %v %v", text, info.Mode(), err)
	}
	if err := r.Save(filepath.Join(path, "no")); err == nil {
		t.Error("saved below a file")
	}
}

// TestKernel reads records as /dev/kmsg has them, from a pipe that holds one at a time.
func TestKernel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "kmsg")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	hold, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	r := New(Config{})
	if _, err := hold.WriteString("4,123,5000000,-;virtio_net: up\n SUBSYSTEM=virtio\n"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- r.Kernel(ctx, path) }()
	for len(r.Tail(1, Filter{})) == 0 {
		select {
		case err := <-done:
			t.Fatal(err)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got := texts(r.Tail(9, Filter{})); got != "kernel 4 virtio_net: up" {
		t.Errorf("%q", got)
	}
	// What this process has printed to the kernel's log would be printed again for ever.
	if l, ok := r.record("11,9,7,-;lazaret: an error\n"); ok {
		t.Error(l)
	}
}

func FuzzRecord(f *testing.F) {
	f.Add("6,1,2,-;text\n KEY=value\n")
	f.Add("99999999999,1,2;x")
	f.Fuzz(func(t *testing.T, s string) {
		r := New(Config{})
		if l, ok := r.record(s); ok && (l.Level < 0 || l.Level > 7 || strings.ContainsAny(l.Text, "\n\x1b")) {
			t.Errorf("%+v", l)
		}
	})
}

func FuzzFollow(f *testing.F) {
	f.Add([]byte("a\nb\x00\xff\n\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := New(Config{})
		r.Follow("x", bytes.NewReader(b))
		for _, l := range r.Tail(1<<20, Filter{}) {
			if strings.ContainsAny(l.Text, "\n\x1b\x00") || len(l.Text) > 2*longest {
				t.Errorf("%q", l.Text)
			}
		}
	})
}
