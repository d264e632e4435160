package claim

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// logged keeps what is logged.
type logged struct {
	mu   sync.Mutex
	text []string
}

func (l *logged) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, string(b))
	return len(b), nil
}

// all has the lines that have a word in them.
func (l *logged) all(word string) (out []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.text {
		if strings.Contains(s, word) {
			out = append(out, s)
		}
	}
	return out
}

// say posts a body over a connection; its length may be said to be another. It returns the
// answer's status, and whether the machine hangs up; 0: it has hung up before.
func say(t *testing.T, c *tls.Conn, in *bufio.Reader, path, body string, length int) (status int, over bool) {
	t.Helper()
	if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil { // no more than a bound on failing
		t.Fatal(err)
	}
	fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", path, length, body)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		return 0, true
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, resp.Close
}

// TestWrongProofs: whoever does not know the code has one try to each connection and as many
// as the throttle gives, and what the machine's first process hears and writes of it is few.
func TestWrongProofs(t *testing.T) {
	for _, path := range []string{claimPath, keptPath} {
		t.Run(path, func(t *testing.T) {
			said := &logged{}
			m := newMachine(t, func(c *KeeperConfig) { c.Log = slog.New(slog.NewTextHandler(said, nil)) })
			proof := fmt.Sprintf(`{"proof":"%s="}`, strings.Repeat("A", 43))
			k := dial(t, m, request(t))
			_, over := say(t, k.tls, k.in, path, proof, len(proof))
			if got := len(said.all("proof of the code is wrong")); got != 1 || !over {
				t.Errorf("a wrong proof: told of %d times, the connection ends: %v", got, over)
			}
			if status, _ := say(t, k.tls, k.in, path, proof, len(proof)); status != 0 {
				t.Errorf("a second proof on its connection is answered %d", status)
			}
			// An exchange that was begun gives no tries.
			k = dial(t, m, request(t))
			at, err := netip.ParseAddrPort(k.tls.LocalAddr().String())
			if err != nil {
				t.Fatal(err)
			}
			for m.d.limit.allow(at.Addr(), time.Now()) {
			}
			if status, over := say(t, k.tls, k.in, path, "{", 1000); status != http.StatusTooManyRequests || !over {
				t.Errorf("without a try left: answered %d before the body came, ends: %v", status, over)
			}
		})
	}
}

// TestNoExchangeNoBody: of whoever has not begun an exchange nothing is read.
func TestNoExchangeNoBody(t *testing.T) {
	m := newMachine(t, nil)
	for _, path := range []string{claimPath, keptPath} {
		c, err := tls.Dial("tcp", m.address, &tls.Config{InsecureSkipVerify: true})
		if err != nil {
			t.Fatal(err)
		}
		status, over := say(t, c, bufio.NewReader(c), path, "{", 100_000) // it never comes
		if status != http.StatusBadRequest || !over {
			t.Errorf("%s: %d, ends: %v", path, status, over)
		}
		c.Close()
	}
}

// TestWrongProofsTold: the log has a line to a minute, with how many there were.
func TestWrongProofsTold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		said := &logged{}
		m := &machine{}
		k, err := NewKeeper(KeeperConfig{Code: DrawCode(), Make: m.make, Keep: func(context.Context) error { return nil }, Log: slog.New(slog.NewTextHandler(said, nil))})
		if err != nil {
			t.Fatal(err)
		}
		zeros := Sum(bytes.Repeat([]byte{0}, sumLength))
		for i := range 1000 {
			c := call{Kind: []string{callClaim, callKept}[i%2], Exchange: &Exchange{Exporter: zeros, Claimant: zeros, Machine: zeros, Request: zeros}, Proof: zeros}
			if r := k.reply(t.Context(), c, func(string) {}); r.Refusal == nil || r.Refusal.Kind != Wrong {
				t.Fatal(r.Refusal)
			}
		}
		if got := said.all(""); len(got) != 1 || !strings.Contains(got[0], "times=1\n") {
			t.Errorf("%d lines: %q", len(got), got[:1])
		}
		time.Sleep(tellWrong) // the bubble's
		k.reply(t.Context(), call{Kind: callKept}, func(string) {})
		if got := said.all(""); len(got) != 2 || !strings.Contains(got[1], "times=1000\n") {
			t.Errorf("a minute later: %q", got)
		}
	})
}
