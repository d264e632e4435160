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

// endless is a connection that waits for its sender as long as it takes.
type endless struct{ http.ResponseWriter }

// SetReadDeadline leaves out what lies ahead.
func (e endless) SetReadDeadline(at time.Time) error {
	if at.After(time.Now()) {
		return nil
	}
	return http.NewResponseController(e.ResponseWriter).SetReadDeadline(at)
}

// TestRefusedUploadIsAnswered: who sent half an update, and says nothing more, is told that
// it is refused, and nothing reads on.
func TestRefusedUploadIsAnswered(t *testing.T) {
	l := newLab(t)
	h := &hasty{&fakeMachine{}, make(chan error, 1)}
	l.cfg.Machine = h
	api := l.API()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{l.admin}}
		api.ServeHTTP(endless{w}, r)
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
