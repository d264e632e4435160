package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestRefusedUpdateSaysWhy: a gateway, or something before it, that answers at the first bytes
// of tens of megabytes and hangs up with the rest unread has its answer printed, every time.
func TestRefusedUpdateSaysWhy(t *testing.T) {
	l := newMachineLab(t)
	l.hasty = `{"error":"refused: signed by nobody"}`
	file := filepath.Join(l.dir, "a.update")
	if err := os.WriteFile(file, make([]byte, 24<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 12 {
		if out, err := l.run(t, "update", file); err == nil || !strings.Contains(err.Error(), "refused: signed by nobody") {
			t.Errorf("%s, %v", out, err)
		}
	}
}

// refuseHastily answers and resets the connection.
func refuseHastily(w http.ResponseWriter, r *http.Request, says string) error {
	if _, err := io.ReadFull(r.Body, make([]byte, 4)); err != nil {
		return err
	}
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c)
	fmt.Fprintf(out, "HTTP/1.1 422 Unprocessable Entity\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(says), says)
	err = out.Flush()
	inner, ok := c.(interface{ NetConn() net.Conn })
	if !ok {
		return errors.New("no TLS connection")
	}
	return errors.Join(err, inner.NetConn().Close()) // with what is unread: a reset
}

// TestUnknownCommandFails: no group takes a name that it does not hold for success.
func TestUnknownCommandFails(t *testing.T) {
	groups := 0
	var walk func(c *cobra.Command, path []string)
	walk = func(c *cobra.Command, path []string) {
		for _, sub := range c.Commands() {
			if !sub.HasSubCommands() {
				continue
			}
			groups++
			at := append(slices.Clone(path), sub.Name())
			r := root()
			r.SetArgs(append(slices.Clone(at), "xyzzyxyzzy"))
			r.SetOut(io.Discard)
			if err := r.ExecuteContext(t.Context()); err == nil || !strings.Contains(err.Error(), "unknown command \"xyzzyxyzzy\"") {
				t.Errorf("%v: %v", at, err)
			}
			walk(sub, at)
		}
	}
	walk(root(), nil)
	if groups < 20 {
		t.Errorf("%d groups were found", groups)
	}
}
