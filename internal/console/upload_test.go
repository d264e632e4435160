package console

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"lazaret/appliance"
	"lazaret/appliance/machine"
)

// hasty refuses an update when something of it has come, while more of it is being read, as
// a client of the machine's socket does.
type hasty struct {
	*fakeMachine
	over chan error // how the read ended
}

func (h *hasty) StageUpdate(_ context.Context, r io.Reader, _ machine.Options) (machine.Staged, error) {
	if _, err := io.ReadFull(r, make([]byte, 4)); err != nil {
		return machine.Staged{}, err
	}
	begun := make(chan struct{})
	go func() { // ends with the read
		close(begun)
		_, err := r.Read(make([]byte, 1))
		h.over <- err
	}()
	<-begun
	return machine.Staged{}, fmt.Errorf("%w: signed by nobody", appliance.ErrRefused)
}

// TestRefusedUploadIsAnswered: who sent half an update, and says nothing more, is told that
// it is refused, and nothing reads on.
func TestRefusedUploadIsAnswered(t *testing.T) {
	l := newLab(t)
	h := &hasty{&fakeMachine{}, make(chan error, 1)}
	l.cfg.Machine, l.cfg.silence = h, time.Millisecond
	api := l.API()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{l.admin}}
		api.ServeHTTP(w, r)
	}))
	defer s.Close()
	conn, err := net.Dial("tcp", s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil { // patience, for when it fails
		t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: gw\r\nContent-Type: application/octet-stream\r\nContent-Length: 1000000\r\n\r\nsome", updatePath); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusUnprocessableEntity || !strings.Contains(string(text), "signed by nobody") {
		t.Errorf("%d %s, %v", resp.StatusCode, text, err)
	}
	if err := <-h.over; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the read ended with %v", err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("the connection goes on: %d, %v", n, err)
	}
}

// first refuses an update at its first bytes.
type first struct{ *fakeMachine }

// StageUpdate implements machine.Updates.
func (first) StageUpdate(_ context.Context, r io.Reader, _ machine.Options) (machine.Staged, error) {
	_, err := io.ReadFull(r, make([]byte, 4))
	return machine.Staged{}, errors.Join(err, fmt.Errorf("%w: signed by nobody", appliance.ErrRefused))
}

// TestRefusedUploadIsReadOn: who sends tens of megabytes, and listens when all are sent alone,
// can send them and has the answer, whatever refuses: machine, scope, or the bundle's size.
func TestRefusedUploadIsReadOn(t *testing.T) {
	l := newLab(t)
	l.cfg.Machine = first{&fakeMachine{}}
	s := httptest.NewTLSServer(l.API())
	defer s.Close()
	roots := x509.NewCertPool()
	roots.AddCert(s.Certificate())
	part := make([]byte, 1<<20)
	for i := range 8 {
		for _, c := range []struct {
			token, says string
			status, mib int
		}{
			{"root", "signed by nobody", http.StatusUnprocessableEntity, 32},
			{"eyes", "", http.StatusForbidden, 32},
			{"nobody", "", http.StatusUnauthorized, 32},
		} {
			conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{RootCAs: roots, ServerName: "example.com", MinVersion: tls.VersionTLS13})
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: gw\r\nAuthorization: Bearer lzt_%s\r\nContent-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n", updatePath, c.token, c.mib<<20); err != nil {
				t.Fatal(err)
			}
			for n := range c.mib {
				if _, err := conn.Write(part); err != nil {
					t.Fatalf("round %d, token %q: cut off after %d MiB: %v", i, c.token, n, err)
				}
			}
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatalf("round %d, token %q: no answer: %v", i, c.token, err)
			}
			text, err := io.ReadAll(resp.Body)
			if err != nil || resp.StatusCode != c.status || !strings.Contains(string(text), c.says) {
				t.Errorf("%d %s, %v; want %d %q", resp.StatusCode, text, err, c.status, c.says)
			}
		}
	}
}
