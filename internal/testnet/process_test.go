package testnet

import (
	"errors"
	"slices"
	"strings"
	"syscall"
	"testing"
)

func TestRoleReportsAndStops(t *testing.T) {
	h := newHost(t, newLab(t, Config{}), "a")
	p, err := h.Start(soon(t), Spec{Role: "greet", Args: []string{"x", "y"}, Stdin: strings.NewReader("from outside")})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	if err := p.Next(soon(t), &got); err != nil {
		t.Fatal(err)
	}
	if want := []string{"x", "y", "from outside"}; !slices.Equal(got, want) {
		t.Errorf("reported %q, want %q", got, want)
	}
	if line, err := p.AwaitOutput(soon(t), "a role"); err != nil || line != "hello from a role" {
		t.Errorf("line %q, %v", line, err)
	}
	if err := p.Stop(soon(t)); err != nil {
		t.Fatal(err)
	}
	err = p.Wait(soon(t))
	if !errors.Is(err, ErrExit) || !strings.Contains(err.Error(), "told to go") || p.ExitCode() != 1 {
		t.Errorf("ended with %v, code %d", err, p.ExitCode())
	}
	if err := p.Next(soon(t), &got); !errors.Is(err, ErrExit) {
		t.Errorf("a report from beyond: %v", err)
	}
	if err := p.Signal(soon(t), syscall.SIGTERM); err != nil {
		t.Errorf("signalling one that has ended: %v", err)
	}
}

func TestKill(t *testing.T) {
	h := newHost(t, newLab(t, Config{}), "a")
	p, err := h.Run(soon(t), "greet")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Next(soon(t), new([]string)); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(soon(t)); !errors.Is(err, ErrExit) || p.ExitCode() != -1 || !strings.Contains(err.Error(), "killed") {
		t.Errorf("ended with %v, code %d", err, p.ExitCode())
	}
}

func TestStartRefusesNonsense(t *testing.T) {
	h := newHost(t, newLab(t, Config{}), "a")
	for name, s := range map[string]Spec{"neither": {}, "both": {Role: "greet", Path: "/bin/true"}, "no such program": {Path: "/nonexistent"}} {
		if _, err := h.Start(soon(t), s); err == nil {
			t.Errorf("%s: started", name)
		}
	}
	p, err := h.Run(soon(t), "no such role")
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(soon(t)); !errors.Is(err, ErrExit) || !strings.Contains(err.Error(), `no role "no such role"`) {
		t.Errorf("unknown role: %v", err)
	}
}

// In a user namespace everyone is user 0, so only what the kernel then refuses
// shows that the privileges are gone (M9: the control plane has none).
func TestNoPrivileges(t *testing.T) {
	for name, c := range map[string]Config{"as the user is": {}, "in a user namespace": {UserNamespace: true}} {
		h := newHost(t, newLab(t, c), "a")
		for _, drop := range []bool{true, false} {
			p, err := h.Start(soon(t), Spec{Role: "privilege", NoPrivileges: drop})
			if err != nil {
				t.Fatal(err)
			}
			var got []bool // added an interface, was refused, has a bounding set, may gain nothing
			if err := p.Next(soon(t), &got); err != nil {
				t.Fatal(err)
			}
			if want := []bool{!drop, drop, !drop, drop}; !slices.Equal(got, want) {
				t.Errorf("%s, dropped %v: got %v, want %v", name, drop, got, want)
			}
		}
	}
}

func TestOutputIsBounded(t *testing.T) {
	var o output
	line := strings.Repeat("x", 999) + "\n"
	for range 2000 {
		o.add(line)
	}
	o.add("last\n")
	if n := len(o.String()); n > maxOutput || n < maxOutput/2 {
		t.Errorf("%d bytes kept, at most %d wanted", n, maxOutput)
	}
	if !strings.HasSuffix(o.String(), "last\n") {
		t.Error("the end was dropped")
	}
	if line, err := o.await(t.Context(), "las"); line != "last" || err != nil {
		t.Errorf("await: %q, %v", line, err)
	}
	o.close()
	if _, err := o.await(t.Context(), "never"); err == nil {
		t.Error("waited for a line of a process that has ended")
	}
}
