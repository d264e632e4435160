package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"time"

	"lazaret/internal/testnet"
)

// outsideRequest is a message to the gateway's public listener.
type outsideRequest struct {
	URL    string      `json:"url"`
	Header http.Header `json:"header"`
	Body   []byte      `json:"body"`
}

// runOutside posts what it reads on standard input, as an identity provider or a management
// service on the Internet would; the argument is the file of the organization's root.
func runOutside(ctx context.Context, args []string) error {
	root, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(root) {
		return errors.New("reading the organization's root: no certificate")
	}
	c := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool}}}
	return answerAll(func(q outsideRequest) apiAnswer {
		return makeRequest(ctx, c, http.MethodPost, q.URL, q.Header, q.Body)
	})
}

// post sends a message from the outer network, and returns the answer whatever its status.
func (d *demo) post(ctx context.Context, q outsideRequest) (apiAnswer, error) {
	if d.outside == nil {
		var err error
		if d.outside, err = newAsker(ctx, d.net.Control, "outside", d.rootFile()); err != nil {
			return apiAnswer{}, err
		}
	}
	a, err := d.outside.ask(ctx, q)
	if err != nil {
		return a, fmt.Errorf("posting to %s: %w", q.URL, err)
	}
	return a, nil
}

// wants is an error unless the status is the wanted one.
func (a apiAnswer) wants(status int) error {
	if a.Status != status {
		return fmt.Errorf("the gateway answered %d %s, want %d", a.Status, a.Body, status)
	}
	return nil
}

// trigger is whatever moves a device: it returns when it was sent, and when answered.
type trigger func(context.Context) (sent, answered testnet.Stamp, err error)

// posting is a trigger that posts a message and wants a status.
func (d *demo) posting(q outsideRequest, status int) trigger {
	return func(ctx context.Context) (sent, answered testnet.Stamp, err error) {
		a, err := d.post(ctx, q)
		if err == nil {
			err = a.wants(status)
		}
		return a.Sent, a.Answered, err
	}
}

// reporting is a trigger that reports a verdict on a device as the management server.
func (d *demo) reporting(v device, verdict string) trigger {
	return func(ctx context.Context) (sent, answered testnet.Stamp, err error) {
		a, _, err := d.operator.report(ctx, v.enrolled.Name, verdict, 0)
		return a.Sent, a.Answered, err
	}
}
