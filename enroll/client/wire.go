package client

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"slices"
	"time"

	"lazaret/enroll/cmp"
)

const contentType = "application/pkixcmp" // RFC 9811

// maxAnswer bounds an HTTP answer with its header, in bytes.
const maxAnswer = cmp.MaxSize + 16<<10

// transient marks an error after which the same message is worth sending again.
type transient struct {
	error
	after time.Duration // as the gateway asked; zero: our own backoff
}

func (t transient) Unwrap() error { return t.error }

// wire is the way to the gateway: one TLS connection at a time, opened again when lost.
// The connection is driven by hand because the message depends on it (exporter) and the
// answer judges it (listener keys); an http.Transport would hide which one was used.
type wire struct {
	client *Client
	pins   [][]byte // SHA-256 of the public keys the gateway may show; nil before the welcome
	conn   *connection
}

type connection struct {
	tls      *tls.Conn
	limit    *io.LimitedReader
	reader   *bufio.Reader
	key      [32]byte // SHA-256 of the public key the gateway shows
	exporter []byte
	last     bool // the gateway closes it after the present answer
}

func (w *wire) close() {
	if w.conn != nil {
		_ = w.conn.tls.Close() // nothing is left to be said
		w.conn = nil
	}
}

// exchange sends what build makes for the present connection and hands the answer to
// check, and does both again while the failure is transient.
func (w *wire) exchange(ctx context.Context, what string, build func() (*cmp.Message, error), check func(request, answer *cmp.Message) error) error {
	wait := w.client.cfg.Backoff
	for attempt := 1; ; attempt++ {
		err := w.once(ctx, build, check)
		if err == nil {
			return nil
		}
		w.close()
		var again transient
		if !errors.As(err, &again) || attempt >= w.client.cfg.Attempts || ctx.Err() != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		pause := max(wait, min(again.after, 5*time.Minute))
		w.client.cfg.Log.Warn("asking the gateway again", "message", what, "attempt", attempt, "in", pause, "error", err)
		if err := sleep(ctx, pause); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		wait = min(2*wait, time.Minute)
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *wire) once(ctx context.Context, build func() (*cmp.Message, error), check func(request, answer *cmp.Message) error) error {
	ctx, cancel := context.WithTimeout(ctx, w.client.cfg.Timeout)
	defer cancel()
	if err := w.open(ctx); err != nil {
		return err
	}
	request, err := build()
	if err != nil {
		return err
	}
	der, err := request.Marshal()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, w.conn.interrupt)
	defer stop()
	answer, err := w.post(ctx, der)
	if err != nil {
		return err
	}
	m, err := cmp.Parse(answer)
	if err != nil {
		return fmt.Errorf("%w (reading the answer: %w)", ErrInBetween, err)
	}
	return check(request, m)
}

// interrupt makes reads and writes under way fail at once.
func (c *connection) interrupt() { _ = c.tls.SetDeadline(time.Unix(1, 0)) }

// open makes sure of a connection that shows a key of the pinned list, if there is one.
func (w *wire) open(ctx context.Context) error {
	if w.conn != nil && w.conn.last {
		w.close()
	}
	if w.conn != nil {
		return nil
	}
	raw, err := w.client.cfg.Dial(ctx, "tcp", w.client.addr)
	if err != nil {
		return transient{error: fmt.Errorf("connecting to gateway: %w", err)}
	}
	conn, err := w.handshake(ctx, raw)
	if err != nil {
		_ = raw.Close() // the error at hand says more
		return err
	}
	w.conn = conn
	return nil
}

func (w *wire) handshake(ctx context.Context, raw net.Conn) (*connection, error) {
	t := tls.Client(raw, &tls.Config{
		MinVersion: tls.VersionTLS13,
		NextProtos: []string{"http/1.1"},
		ServerName: w.client.url.Hostname(),
		// No authority is known yet. The gateway's key is held against the list in its
		// welcome, which is authenticated by the code: see Begin.
		InsecureSkipVerify: true,
	})
	if err := t.HandshakeContext(ctx); err != nil {
		return nil, transient{error: fmt.Errorf("starting TLS 1.3 with gateway: %w", err)}
	}
	state := t.ConnectionState()
	exporter, err := state.ExportKeyingMaterial(cmp.ExporterLabel, nil, cmp.ExporterSize)
	if err != nil {
		return nil, fmt.Errorf("exporting TLS keying material: %w", err)
	}
	limit := &io.LimitedReader{R: t}
	c := &connection{tls: t, limit: limit, reader: bufio.NewReader(limit), key: keyHash(state.PeerCertificates[0]), exporter: exporter}
	if w.pins != nil && !c.listed(w.pins) {
		return nil, fmt.Errorf("%w (the TLS key shown is not one of the gateway's)", ErrInBetween)
	}
	return c, nil
}

func keyHash(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// listed reports whether the connection's key is one of keys.
func (c *connection) listed(keys [][]byte) bool {
	return slices.ContainsFunc(keys, func(k []byte) bool { return bytes.Equal(k, c.key[:]) })
}

// post sends one message on the open connection and reads the answer.
func (w *wire) post(ctx context.Context, der []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.client.url.String(), bytes.NewReader(der))
	if err != nil {
		return nil, fmt.Errorf("building request: %w", err)
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("User-Agent", "lazaret")
	if err := req.Write(w.conn.tls); err != nil {
		return nil, transient{error: fmt.Errorf("sending to gateway: %w", err)}
	}
	w.conn.limit.N = maxAnswer
	resp, err := http.ReadResponse(w.conn.reader, req)
	if err != nil {
		return nil, transient{error: fmt.Errorf("waiting for the gateway's answer: %w", err)}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, cmp.MaxSize+1))
	_ = resp.Body.Close() // read to its end, or not read on
	if err != nil {
		return nil, transient{error: fmt.Errorf("reading the gateway's answer: %w", err)}
	}
	w.conn.last = resp.Close
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")) // malformed is no answer either
	switch {
	case kind == contentType:
		return body, nil
	case resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests:
		return nil, transient{error: fmt.Errorf("gateway answered %s", resp.Status), after: retryAfter(resp)}
	case resp.StatusCode == http.StatusBadRequest:
		return nil, fmt.Errorf("%w (it found the message malformed)", ErrRefused)
	}
	return nil, fmt.Errorf("no enrollment service at %s: it answered %q with type %q", w.client.url, resp.Status, kind)
}

func retryAfter(resp *http.Response) time.Duration {
	d, err := time.ParseDuration(resp.Header.Get("Retry-After") + "s")
	if err != nil {
		return 0
	}
	return d
}
