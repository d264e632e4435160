package machine

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// hasty ends staging while a read of the bundle is under way, as when the version that runs
// is left meanwhile.
type hasty struct {
	Host
	reads sync.WaitGroup
	err   error
}

func (h *hasty) StageUpdate(_ context.Context, r io.Reader, _ Options) (Staged, error) {
	if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
		return Staged{}, err
	}
	begun := make(chan struct{})
	h.reads.Go(func() { // ends with the read
		close(begun)
		_, _ = r.Read(make([]byte, 1))
	})
	<-begun
	return Staged{}, h.err
}

// TestNobodyReadsOn: however staging ends early, a peer that sent a part of a bundle and
// says nothing more gets its answer; then nobody reads on and the connection is closed,
// while the peer keeps its end open.
func TestNobodyReadsOn(t *testing.T) {
	h := &hasty{}
	path := open(t, h, io.Discard, uint32(os.Getuid()))
	var peers []net.Conn
	for _, c := range []struct {
		err  error
		size int
		says string
	}{
		{fmt.Errorf("%w: signed by nobody", ErrRefused), 1_000_000, "signed by nobody"},
		{fmt.Errorf("%w: signed by nobody", ErrRefused), 100, "signed by nobody"}, // so little that a server might wait for it
		{fmt.Errorf("%w: this machine goes back", ErrBusy), 1_000_000, "goes back"},
		{errors.New("the disk is gone"), 1_000_000, "its log says why"},
	} {
		h.err = c.err
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		peers = append(peers, conn)
		if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil { // patience, for when it fails
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(conn, "POST /v1/update HTTP/1.1\r\nHost: machine\r\nContent-Length: %d\r\n\r\nsome", c.size); err != nil {
			t.Fatal(err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%v: no answer: %v", c.err, err)
		}
		text, err := io.ReadAll(resp.Body)
		if err != nil || !strings.Contains(string(text), c.says) {
			t.Errorf("%d %s, %v; want %q", resp.StatusCode, text, err, c.says)
		}
	}
	h.reads.Wait()
	for _, conn := range peers {
		if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("a connection goes on: %d, %v", n, err)
		}
	}
}

// first refuses a bundle at its first bytes.
type first struct{ Host }

// StageUpdate implements Updates.
func (first) StageUpdate(_ context.Context, r io.Reader, _ Options) (Staged, error) {
	_, err := io.ReadFull(r, make([]byte, 4))
	return Staged{}, errors.Join(err, fmt.Errorf("%w: signed by nobody", ErrRefused))
}

// TestRefusedIsReadOn: a peer that sends all of a bundle before it listens can, and has its
// answer; and so does a Client, every time.
func TestRefusedIsReadOn(t *testing.T) {
	path := open(t, first{}, io.Discard, uint32(os.Getuid()))
	const size = 32 << 20
	bundle := make([]byte, size)
	c := Connect(path)
	for range 8 {
		conn, err := net.Dial("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if _, err := fmt.Fprintf(conn, "POST /v1/update HTTP/1.1\r\nHost: machine\r\nContent-Length: %d\r\n\r\n", size); err != nil {
			t.Fatal(err)
		}
		if n, err := conn.Write(bundle); err != nil {
			t.Fatalf("cut off after %d bytes: %v", n, err)
		}
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(resp.Body); err != nil || !strings.Contains(string(text), "signed by nobody") {
			t.Errorf("%s, %v", text, err)
		}
		if _, err := c.StageUpdate(t.Context(), bytes.NewReader(bundle), Options{Size: size}); !errors.Is(err, ErrRefused) || !strings.Contains(err.Error(), "signed by nobody") {
			t.Error(err)
		}
	}
}
