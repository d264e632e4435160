package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// wire passes bytes on between claimant and machine, and cuts connections where the claimant
// says that the answer is kept: its fourth word, after the handshake, its end with the opening,
// and the request; on later connections, which repeat no request, its third.
type wire struct {
	address string
	word    atomic.Int32
	cuts    atomic.Int32 // so many connections are cut there
	heard   atomic.Bool  // the machine hears that word, and its answer is lost
}

func newWire(t *testing.T, to string) *wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{address: l.Addr().String()}
	w.word.Store(4)
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { w.pass(in, to) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		all.Wait()
	})
	return w
}

func (w *wire) pass(in net.Conn, to string) {
	defer in.Close()
	out, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer out.Close()
	var words atomic.Int32
	var claimant, mute atomic.Bool // who spoke last; whether answers are lost
	var back sync.WaitGroup
	back.Go(func() {
		defer in.Close()
		for b := make([]byte, 32<<10); ; {
			n, err := out.Read(b)
			if err != nil || mute.Load() {
				return
			}
			claimant.Store(false)
			if _, err := in.Write(b[:n]); err != nil {
				return
			}
		}
	})
	defer back.Wait()
	defer out.Close()
	for b := make([]byte, 32<<10); ; {
		n, err := in.Read(b)
		if err != nil {
			return
		}
		if !claimant.Swap(true) && words.Add(1) == w.word.Load() && w.cuts.Add(-1) >= 0 {
			w.word.Store(3)
			if !w.heard.Load() {
				return
			}
			mute.Store(true)
		}
		if _, err := out.Write(b[:n]); err != nil {
			return
		}
	}
}

func quick(t *testing.T) {
	t.Helper()
	pause, tries := claimPause, keptTries
	claimPause, keptTries = time.Millisecond, 3 // few: each try counts at the machine
	t.Cleanup(func() { claimPause, keptTries = pause, tries })
}

// TestKeptLost: a machine that did not hear that the credential is saved is told again; only
// what it confirmed counts.
func TestKeptLost(t *testing.T) {
	quick(t)
	address, code, kept := unclaimed(t, t.TempDir())
	w := newWire(t, address)
	dir := t.TempDir()
	args := []string{"claim", w.address, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443", "--json"}
	w.cuts.Store(1)
	out, said, err := ctl(t, dir, code.String(), args...)
	if err != nil || !strings.Contains(out, "root_sha256") || !strings.Contains(said, "telling it again") {
		t.Errorf("%v, said %s, printed %s", err, said, out)
	}
	if _, err := os.Lstat(filepath.Join(dir, pendingFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the claim under way is still kept")
	}
	if n := kept(); n != 1 {
		t.Errorf("kept %d times", n)
	}
}

// TestKeptNeverConfirmed: as long as the machine may not have heard, the claim goes on with
// the next run, and no success is told.
func TestKeptNeverConfirmed(t *testing.T) {
	quick(t)
	for _, heard := range []bool{false, true} {
		address, code, kept := unclaimed(t, t.TempDir())
		w := newWire(t, address)
		dir := t.TempDir()
		args := []string{"claim", w.address, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443", "--json"}
		w.heard.Store(heard)
		w.cuts.Store(1)
		if !heard { // nor does it later
			w.cuts.Store(1 << 20)
		}
		out, _, err := ctl(t, dir, code.String(), args...)
		if err == nil || !strings.Contains(err.Error(), "same command again") || out != "" {
			t.Errorf("heard %v: %v, printed %s", heard, err, out)
		}
		if _, err := os.Lstat(filepath.Join(dir, pendingFile)); err != nil {
			t.Errorf("heard %v: the claim under way is forgotten: %v", heard, err)
		}
		if heard { // the gateway it has become
			become(t, dir, true)
			if _, said, err := ctl(t, dir, code.String(), args...); err != nil || !strings.Contains(said, "the gateway answers") {
				t.Errorf("the next run: %v, said %s", err, said)
			}
			if _, err := os.Lstat(filepath.Join(dir, pendingFile)); !errors.Is(err, fs.ErrNotExist) {
				t.Error("the claim under way is still kept")
			}
		} else {
			w.cuts.Store(0)
			if out, _, err := ctl(t, dir, code.String(), args...); err != nil || !strings.Contains(out, "root_sha256") {
				t.Errorf("the next run: %v, printed %s", err, out)
			}
		}
		if n := kept(); n != 1 {
			t.Errorf("heard %v: kept %d times", heard, n)
		}
	}
}

// become starts an API that the credential in dir is for; without own, it has another root.
func become(t *testing.T, dir string, own bool) {
	t.Helper()
	api := httptest.NewUnstartedServer(http.NotFoundHandler())
	api.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	api.StartTLS()
	t.Cleanup(api.Close)
	files := map[string][]byte{"server": []byte(api.URL + "\n")}
	if own {
		files["root.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: api.Certificate().Raw})
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestAnswers: the gateway is known by its root, and a credential by its key.
func TestAnswers(t *testing.T) {
	address, code, kept := unclaimed(t, t.TempDir())
	dir := t.TempDir()
	if _, _, err := ctl(t, dir, code.String(), "claim", address, "--code-file=-", "--enroll-name=gw.example.com", "--management=192.0.2.10 tcp/443"); err != nil {
		t.Fatal(err)
	}
	kept()
	s := &session{dir: dir}
	become(t, dir, false)
	if s.answers(t.Context()) {
		t.Error("another gateway counts")
	}
	become(t, dir, true)
	if !s.answers(t.Context()) {
		t.Error("the gateway does not count")
	}
	other, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if s.holds(other) || (&session{dir: t.TempDir()}).holds(other) {
		t.Error("holds another's key")
	}
}
