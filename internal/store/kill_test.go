package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"lazaret/enroll"
	"lazaret/internal/audit"
	"lazaret/internal/seal"
	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// The tests below run this binary again as a child, which kills itself with SIGKILL at a
// step, or is killed, and then look at what it left.
const (
	childDir  = "LAZARET_STORE_CHILD" // directory to work in
	childStep = "LAZARET_STORE_STEP"  // step to die at, once armed; empty: go on until killed
)

func killed(dir string) (Config, error) {
	ring, err := seal.LoadOrCreate(filepath.Join(dir, "node.key"))
	c := config(dir)
	c.Ring = ring
	return c, err
}

// TestChild is the child's program, and no test by itself.
func TestChild(t *testing.T) {
	dir := os.Getenv(childDir)
	if dir == "" {
		t.Skip("runs as a child of the tests in this file")
	}
	c, err := killed(dir)
	if err != nil {
		t.Fatal(err)
	}
	armed := false
	c.hook = func(step string) {
		if armed && step == os.Getenv(childStep) {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal is on its way
		}
	}
	s, err := Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getenv(childStep) == "" {
		enrollForEver(t, s)
	}
	enrolltest.Enroll(t, s, 1)
	if err := s.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	o := enrolltest.Create(t, s, enrolltest.OTP(2))
	armed = true
	if _, err := s.Issue(t.Context(), enrolltest.Issuance(o, enrolltest.Record(2))); err != nil {
		t.Fatal(err)
	}
	if err := s.FlushAudit(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Fatalf("never came to step %q", os.Getenv(childStep))
}

// enrollForEver says on standard output which devices were acknowledged.
func enrollForEver(t *testing.T, s *Store) {
	go s.Run(t.Context())
	for n := 0; ; n++ {
		fmt.Println("enrolled", enrolltest.Enroll(t, s, n).ID)
	}
}

func child(dir, step string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childDir+"="+dir, childStep+"="+step)
	return cmd
}

func TestKilledBetweenAnyTwoSteps(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a child for every step")
	}
	for step, issued := range map[string]bool{
		"before commit device.enroll": false,
		"after commit device.enroll":  true,
		"before append":               true,
		"after append":                true,
		"before commit ":              true, // the transaction that stores the head
		"after commit ":               true,
		"after acknowledge":           true,
	} {
		t.Run(strings.TrimSpace(step), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			out, err := child(dir, step).CombinedOutput()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
				t.Fatalf("the child ended with %v: %s", err, out)
			}
			c, err := killed(dir)
			if err != nil {
				t.Fatal(err)
			}
			s := open(t, c)
			whole(t, s, issued)
			logged(t, s, c, map[bool]int{false: 1, true: 2}[issued])
			// Life goes on: the lost answer, or the second device, then a third.
			if !issued {
				o, err := s.OTP(t.Context(), "REF00002")
				if err != nil {
					t.Fatal(err)
				}
				if _, err := s.Issue(t.Context(), enrolltest.Issuance(o, enrolltest.Record(2))); err != nil {
					t.Error(err)
				}
			}
			if r := enrolltest.Enroll(t, s, 3); r.Seat != 3 {
				t.Errorf("the third device got seat %d: one was lost", r.Seat)
			}
			logged(t, s, c, 3)
		})
	}
}

// whole checks that device 2 is there with all that belongs to it, or not at all.
func whole(t *testing.T, s *Store, issued bool) {
	t.Helper()
	ctx := t.Context()
	want := map[bool]enroll.State{false: enroll.Pending, true: enroll.Issued}[issued]
	if o, err := s.OTP(ctx, "REF00002"); err != nil || o.State != want {
		t.Errorf("the OTP is %s, %v; want %s", o.State, err, want)
	}
	id := enrolltest.Record(2).ID
	for name, find := range map[string]func(context.Context) (quarantine.Record, error){
		"id":              func(ctx context.Context) (quarantine.Record, error) { return s.Device(ctx, id) },
		"certificate key": func(ctx context.Context) (quarantine.Record, error) { return s.ByKey(ctx, enrolltest.SPKI(2)) },
		"WireGuard key":   func(ctx context.Context) (quarantine.Record, error) { return s.ByWireGuard(ctx, enrolltest.Key(2)) },
	} {
		r, err := find(ctx)
		if issued && (err != nil || r.ID != id || r.Seat != 2) {
			t.Errorf("by %s: %s with seat %d, %v", name, r.ID, r.Seat, err)
		}
		if !issued && !errors.Is(err, quarantine.ErrUnknownDevice) {
			t.Errorf("by %s: half a device, %v", name, err)
		}
	}
}

// logged checks that the audit log holds each enrollment exactly once, in order, and verifies.
func logged(t *testing.T, s *Store, c Config, devices int) {
	t.Helper()
	entries, err := s.AuditLog().List(t.Context(), "", epochStart, 0)
	if err != nil {
		t.Fatal(err)
	}
	ids, seen, last := map[string]bool{}, map[string]int{}, int64(1<<62)
	for _, e := range entries {
		if ids[e.ID] || e.Revision >= last {
			t.Errorf("entry %s (%s, revision %d) is repeated or out of order", e.ID, e.Action, e.Revision)
		}
		ids[e.ID], last = true, e.Revision
		if e.Action == "device.enroll" {
			seen[e.Device]++
		}
	}
	if len(seen) != devices {
		t.Errorf("%d devices in the audit log, want %d", len(seen), devices)
	}
	for id, n := range seen {
		if n != 1 {
			t.Errorf("device %s was enrolled %d times, says the audit log", id, n)
		}
	}
	head, err := s.AuditLog().Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if r, err := audit.Verify(c.AuditDir, head); err != nil || int(r.Entries) != len(entries) {
		t.Errorf("verify: %+v, %v", r, err)
	}
}

// Killed from outside at any moment, again and again, with everything running.
func TestKilledAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("starts children")
	}
	t.Parallel()
	for _, after := range []int{1, 7, 40} {
		dir := t.TempDir()
		cmd := child(dir, "")
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var acknowledged []quarantine.ID
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if id, ok := strings.CutPrefix(lines.Text(), "enrolled "); ok {
				acknowledged = append(acknowledged, quarantine.ID(id))
			}
			if len(acknowledged) == after {
				cmd.Process.Kill()
			}
		}
		cmd.Wait()
		if len(acknowledged) < after {
			t.Fatalf("the child enrolled %d devices", len(acknowledged))
		}
		c, err := killed(dir)
		if err != nil {
			t.Fatal(err)
		}
		s := open(t, c)
		snap, err := s.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, id := range acknowledged {
			if _, ok := snap.Records[id]; !ok {
				t.Errorf("device %s was acknowledged and is lost", id)
			}
		}
		seats := map[quarantine.Seat]quarantine.ID{}
		for id, r := range snap.Records {
			if other, ok := seats[r.Seat]; ok {
				t.Errorf("%s and %s share seat %d", id, other, r.Seat)
			}
			seats[r.Seat] = id
		}
		logged(t, s, c, len(snap.Records))
	}
}

// Run chains by itself, and ends without an error when told to.
func TestRun(t *testing.T) {
	t.Parallel()
	c := config(t.TempDir())
	s := open(t, c)
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	chained := s.client.Watch(ctx, headKey)
	if err := s.Audit(ctx, audit.Entry{Action: "gateway.start"}); err != nil {
		t.Fatal(err)
	}
	<-chained
	if got, err := audit.List(c.AuditDir, audit.Filter{}); err != nil || len(got) != 1 || got[0].Action != "gateway.start" {
		t.Errorf("chained %+v, %v", got, err)
	}
	stop()
	if err := <-done; err != nil {
		t.Errorf("ended with %v", err)
	}
}
