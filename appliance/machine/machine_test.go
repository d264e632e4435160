package machine

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
)

// fake notes what it is asked, and answers with fail.
type fake struct {
	Host
	asked string
	fail  error
	slow  chan struct{} // StageUpdate ends once its context does, and says so here
}

func (f *fake) note(format string, args ...any) error {
	f.asked = fmt.Sprintf(format, args...)
	return f.fail
}

func (f *fake) Status(context.Context) (appliance.Status, error) {
	return appliance.Status{Version: "1.0.0", Code: "CLAIM", Links: []appliance.LinkIs{{Name: "wan", Addresses: []netip.Prefix{netip.MustParsePrefix("192.0.2.7/24")}}}}, f.note("status")
}

func (f *fake) Log(_ context.Context, n int, q Filter) ([]Line, error) {
	return []Line{{Part: "kernel", Text: "hello"}}, f.note("log %d %s %s %s", n, q.Part, q.Contains, q.Since.UTC().Format(time.RFC3339))
}

func (f *fake) Network(context.Context) (NetworkIs, error) {
	return NetworkIs{Confirmed: appliance.Network{Version: 2}}, f.note("network")
}

func (f *fake) TryNetwork(_ context.Context, n appliance.Network, d time.Duration) (time.Time, error) {
	return time.Unix(1_780_000_000, 0), f.note("try %d %s", n.Version, d)
}
func (f *fake) ConfirmNetwork(context.Context) error { return f.note("confirm") }

func (f *fake) StageUpdate(ctx context.Context, r io.Reader, o Options) (Staged, error) {
	n, err := io.Copy(io.Discard, r)
	if f.slow != nil {
		<-ctx.Done()
		close(f.slow)
	}
	return Staged{Version: "1.1.0"}, errors.Join(err, f.note("stage %d %+v", n, o))
}

func (f *fake) UpdateSettings(context.Context) (Settings, error) {
	return Settings{Updates: appliance.Updates{Channel: "https://u.example"}, Version: "1.0.0", Place: 42}, f.note("settings")
}
func (f *fake) SetUpdates(_ context.Context, u appliance.Updates) error { return f.note("set %+v", u) }
func (f *fake) Heard(_ context.Context, h Heard) error                  { return f.note("heard %s", h.Available) }
func (f *fake) Rollback(context.Context) error                          { return f.note("rollback") }
func (f *fake) Reboot(context.Context) error                            { return f.note("reboot") }
func (f *fake) PowerOff(context.Context) error                          { return f.note("poweroff") }
func (f *fake) SetPassphrase(_ context.Context, p string) error         { return f.note("passphrase %s", p) }
func (f *fake) Seal(_ context.Context, pin string) (string, error) {
	return "ABCD-EFGH", f.note("seal %s", pin)
}
func (f *fake) NewRecovery(context.Context) (string, error) { return "JKMN-PQRS", f.note("recovery") }
func (f *fake) AcceptTime(context.Context) error            { return f.note("accept") }
func (f *fake) SelfCheck(context.Context) (appliance.Report, error) {
	return appliance.Report{Checks: []appliance.Check{{ID: "a", Result: appliance.Pass}}}, f.note("check")
}
func (f *fake) Inventory(context.Context) (json.RawMessage, error) {
	return json.RawMessage(`{"bomFormat":"CycloneDX"}`), f.note("inventory")
}
func (f *fake) Reset(_ context.Context, name string) error { return f.note("reset %s", name) }

// open serves a host for some users, and returns its path.
func open(t *testing.T, h Host, log io.Writer, users ...uint32) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "lzt") // short enough for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "machine.sock")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, h, users, slog.New(slog.NewTextHandler(log, nil))) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	return path
}

// TestBothEnds asks everything there is over the socket.
func TestBothEnds(t *testing.T) {
	f := &fake{}
	c := Connect(open(t, f, io.Discard, uint32(os.Getuid())))
	ctx := t.Context()
	since := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	for want, ask := range map[string]func() (any, error){
		"status": func() (any, error) { return c.Status(ctx) },
		"log 7 kernel a&b 2026-03-01T12:00:00Z": func() (any, error) {
			return c.Log(ctx, 7, Filter{Part: "kernel", Contains: "a&b", Since: since})
		},
		"network":  func() (any, error) { return c.Network(ctx) },
		"try 2 1m": func() (any, error) { return c.TryNetwork(ctx, appliance.Network{Version: 2}, time.Minute) },
		"confirm":  func() (any, error) { return nil, c.ConfirmNetwork(ctx) },
		"stage 3000000 {Size:3000000 Reboot:true Automatic:false Version:1.1.0 SHA256:0a}": func() (any, error) {
			return c.StageUpdate(ctx, bytes.NewReader(make([]byte, 3_000_000)), Options{Size: 3_000_000, Reboot: true, Version: "1.1.0", SHA256: "0a"})
		},
		"settings": func() (any, error) { return c.UpdateSettings(ctx) },
		"set {Channel:https://u.example Automatic:true Window:}": func() (any, error) {
			return nil, c.SetUpdates(ctx, appliance.Updates{Channel: "https://u.example", Automatic: true})
		},
		"heard 2.0.0":           func() (any, error) { return nil, c.Heard(ctx, Heard{Available: "2.0.0"}) },
		"passphrase a long one": func() (any, error) { return nil, c.SetPassphrase(ctx, "a long one") },
		"seal 123456":           func() (any, error) { return c.Seal(ctx, "123456") },
		"recovery":              func() (any, error) { return c.NewRecovery(ctx) },
		"accept":                func() (any, error) { return nil, c.AcceptTime(ctx) },
		"check":                 func() (any, error) { return c.SelfCheck(ctx) },
		"inventory":             func() (any, error) { return c.Inventory(ctx) },
		"rollback":              func() (any, error) { return nil, c.Rollback(ctx) },
		"reboot":                func() (any, error) { return nil, c.Reboot(ctx) },
		"poweroff":              func() (any, error) { return nil, c.PowerOff(ctx) },
		"reset gw":              func() (any, error) { return nil, c.Reset(ctx, "gw") },
	} {
		got, err := ask()
		if err != nil || !strings.HasPrefix(f.asked, want) {
			t.Errorf("%s: asked %q, %v", want, f.asked, err)
		}
		if v := reflect.ValueOf(got); got != nil && v.IsZero() {
			t.Errorf("%s: answered nothing", want)
		}
	}
	st, err := c.Status(ctx)
	if err != nil || st.Code != "" || st.Links[0].Addresses[0].String() != "192.0.2.7/24" {
		t.Errorf("status %+v, %v", st, err)
	}
}

// TestErrorsPass with their kind and text, but for those that are nobody's business.
func TestErrorsPass(t *testing.T) {
	f, log := &fake{}, &bytes.Buffer{}
	c := Connect(open(t, f, log, uint32(os.Getuid())))
	f.fail = fmt.Errorf("%w: version 1.0.0 runs already", ErrRefused)
	if err := c.Rollback(t.Context()); !errors.Is(err, appliance.ErrRefused) || err.Error() != "refused: version 1.0.0 runs already" {
		t.Errorf("a refusal: %v", err)
	}
	f.fail = fmt.Errorf("%w: an update is under way", ErrBusy)
	if err := c.Rollback(t.Context()); !errors.Is(err, ErrBusy) {
		t.Errorf("busy: %v", err)
	}
	f.fail = errors.New("opening /data/secret")
	if err := c.Rollback(t.Context()); err == nil || strings.Contains(err.Error(), "secret") || errors.Is(err, ErrRefused) {
		t.Errorf("a failure: %v", err)
	}
	if !strings.Contains(log.String(), "opening /data/secret") {
		t.Errorf("the log does not say why: %s", log)
	}
	if _, err := c.TryNetwork(t.Context(), appliance.Network{}, time.Hour); !errors.Is(err, ErrRefused) {
		t.Errorf("a trial of an hour: %v", err)
	}
	if _, err := c.Log(t.Context(), MaxLines+1, Filter{}); !errors.Is(err, ErrRefused) {
		t.Errorf("more of the log than there may be: %v", err)
	}
	if _, err := c.StageUpdate(t.Context(), strings.NewReader("x"), Options{Size: MaxBundle + 1}); err == nil {
		t.Error("a bundle that is too large")
	}
	if _, err := Connect(filepath.Join(t.TempDir(), "none")).Status(t.Context()); !errors.Is(err, ErrUnknown) {
		t.Errorf("no machine: %v", err)
	}
}

// TestStrangersAreHungUpOn: whoever is not in the list gets no answer, not even to a mistake.
func TestStrangersAreHungUpOn(t *testing.T) {
	f, log := &fake{}, &bytes.Buffer{}
	path := open(t, f, log, uint32(os.Getuid())+1)
	if _, err := Connect(path).Status(t.Context()); err == nil || f.asked != "" {
		t.Errorf("a stranger: %v, asked %q", err, f.asked)
	}
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if b, err := io.ReadAll(conn); len(b) != 0 {
		t.Errorf("a stranger is told %q (%v)", b, err)
	}
}

// TestWhoGivesUpEndsIt: a request ends in the machine when its asker goes.
func TestWhoGivesUpEndsIt(t *testing.T) {
	f := &fake{slow: make(chan struct{})}
	c := Connect(open(t, f, io.Discard, uint32(os.Getuid())))
	ctx, cancel := context.WithCancel(t.Context())
	r, w := io.Pipe()
	go func() {
		_, _ = io.WriteString(w, "some")
		cancel()
		w.CloseWithError(context.Canceled)
	}()
	if _, err := c.StageUpdate(ctx, r, Options{}); err == nil {
		t.Error("it was staged")
	}
	<-f.slow
}
