package ssf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"lazaret/quarantine/source/set"
)

func bad() map[string]any { return map[string]any{"current_status": "not-compliant"} }

// TestRepeatedTokens are answered as the first time (RFC 8935 section 2), and count once;
// also after a restart, and also when copies come at the same time.
func TestRepeatedTokens(t *testing.T) {
	l := newLab(t, nil)
	text := l.sign(l.token(set.DeviceComplianceChange, device("d1"), bad()))
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			if err := l.take(t.Context(), l.idp(), text, ""); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := l.gate.told(); got != "d1 noncompliant" {
		t.Errorf("16 copies at once: asked %q", got)
	}
	l.stop()
	l.start()
	if err := l.take(t.Context(), l.idp(), text, ""); err != nil {
		t.Error(err)
	}
	if got := l.gate.told(); got != "" {
		t.Errorf("after a restart: asked %q", got)
	}
	if st, err := l.Status(t.Context(), "idp"); err != nil || st.Repeated != 1 || st.Remembered != 1 {
		t.Errorf("status is %+v, %v", st, err)
	}
}

// TestJTIOfAnotherToken is refused: the transmitter broke its word, or its key is abused.
func TestJTIOfAnotherToken(t *testing.T) {
	l := newLab(t, nil)
	tok := l.token(set.DeviceComplianceChange, device("d1"), bad())
	if err := l.send(tok); err != nil {
		t.Fatal(err)
	}
	l.gate.told()
	tok.Subject = device("d2")
	err := l.send(tok)
	if refusal, ok := errors.AsType[*set.Error](err); !ok || refusal.Code != set.InvalidRequest || l.gate.told() != "" {
		t.Errorf("answered %v", err)
	}
}

// TestRefusedIsNotRemembered: a forged copy does not keep the real one out.
func TestRefusedIsNotRemembered(t *testing.T) {
	l := newLab(t, nil)
	tok := l.token(set.DeviceComplianceChange, device("d1"), bad())
	thief, err := set.GenerateKey()
	if err != nil {
		t.Fatal(err)
	}
	thief.ID = l.key.ID
	forged, err := thief.Sign(tok)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.take(t.Context(), l.idp(), forged, ""); err == nil {
		t.Fatal("a forged token is taken")
	}
	if err := l.send(tok); err != nil || l.gate.told() != "d1 noncompliant" {
		t.Errorf("the real one: %v", err)
	}
}

func seenToken(id string, at time.Time) set.Token {
	return set.Token{ID: id, IssuedAt: at, Sum: [32]byte{byte(len(id))}}
}

// TestSeenOutlivesATornWrite: what was synced stays, the torn end goes.
func TestSeenOutlivesATornWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.seen")
	s, err := openSeen(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		if err := s.add(seenToken(fmt.Sprint(i), then), then.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	s.stop()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for cut := range entrySize {
		if err := os.WriteFile(path, b[:len(b)-cut], 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openSeen(path, 100)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if before, err := s.check(seenToken(fmt.Sprint(i), then)); err != nil || !before {
				t.Errorf("cut by %d: %d is not known: %v", cut, i, err)
			}
		}
		s.stop()
	}
}

// TestSeenIsBounded: when there are more tokens than are remembered, none counts twice: what
// is older than the oldest one that is remembered is refused, after a restart, too.
func TestSeenIsBounded(t *testing.T) {
	const most = 50
	path := filepath.Join(t.TempDir(), "a.seen")
	s, err := openSeen(path, most)
	if err != nil {
		t.Fatal(err)
	}
	const total = 1000
	for i := range total {
		tok := seenToken(fmt.Sprint(i), then.Add(time.Duration(i)*time.Second))
		if before, err := s.check(tok); err != nil || before {
			t.Fatalf("%d: %v, %v", i, before, err)
		}
		if err := s.add(tok, then.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
		if len(s.index) > most {
			t.Fatalf("%d are remembered", len(s.index))
		}
	}
	for range 2 {
		for i := range total {
			before, err := s.check(seenToken(fmt.Sprint(i), then.Add(time.Duration(i)*time.Second)))
			if !before && err == nil {
				t.Fatalf("%d would count again", i)
			}
		}
		if info, err := os.Stat(path); err != nil || info.Size() > 4*most*entrySize {
			t.Errorf("the file: %v, %v", info.Size(), err)
		}
		s.stop()
		if s, err = openSeen(path, most); err != nil {
			t.Fatal(err)
		}
	}
	// With time, what is too old to be accepted goes, and nothing is refused for it.
	late := then.Add(24 * time.Hour)
	for i := range 2 * most {
		tok := seenToken(fmt.Sprint("late", i), late.Add(time.Duration(i/2)*time.Second))
		if before, err := s.check(tok); err != nil || before {
			t.Fatalf("late %d: %v, %v", i, before, err)
		}
		if err := s.add(tok, late.Add(time.Duration(i/2-10)*time.Second)); err != nil {
			t.Fatal(err)
		}
	}
	if s.floor >= late.Unix() {
		t.Error("the floor rose though there was room")
	}
}

// TestSeenThatCannotBeWritten: the transmitter sends the token again, and it counts then.
func TestSeenThatCannotBeWritten(t *testing.T) {
	l := newLab(t, nil)
	l.idp().seen.file.Close()
	tok := l.token(set.DeviceComplianceChange, device("d1"), bad())
	err := l.send(tok)
	if _, refused := errors.AsType[*set.Error](err); err == nil || refused {
		t.Errorf("answered %v", err)
	}
	if got := l.gate.told(); got != "d1 noncompliant" {
		t.Errorf("asked %q", got)
	}
	if err := l.send(tok); err != nil {
		t.Errorf("sent again: %v", err)
	}
}
