package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"lazaret/enroll/client"
	"lazaret/enroll/code"
	"lazaret/internal/config"
	"lazaret/internal/console/api"
	"lazaret/internal/daemon"
	"lazaret/internal/testnet"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

const (
	roleServe = "serve"
	roleDrive = "drive"
)

// runServe is the role of the control plane, as it ships.
func runServe(ctx context.Context, args []string) error {
	var path string
	if err := arguments(args, &path); err != nil {
		return err
	}
	c, err := config.Load(path)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- daemon.Serve(ctx, c, "bench", c.Logger(os.Stderr), func() { close(ready) })
	}()
	select {
	case <-ready:
	case err := <-ended:
		return err
	}
	err = obey(ctx, nil, func(_ context.Context, o order) (any, error) { return unknown(o) })
	cancel()
	return errors.Join(err, <-ended)
}

// driveArgs is what enrolls a device and reports on it.
type driveArgs struct {
	AdminDir, TokenFile string
	Key                 string // the device's WireGuard key; empty: it enrolls none
}

// enrolled is what the device's tunnel needs.
type enrolled struct {
	Gateway    string         // its WireGuard key
	Quarantine []netip.Prefix // its addresses
}

// driver is administrator and management server in one.
type driver struct {
	admin, reports *http.Client
	token          string
	device         string
	sequence       uint64
	signals        signals
	hook           hook
}

// runDrive is the role that enrolls a device and then moves it by reports, over a
// connection that stays.
func runDrive(ctx context.Context, args []string) error {
	var a driveArgs
	if err := arguments(args, &a); err != nil {
		return err
	}
	d, err := newDriver(a)
	if err != nil {
		return err
	}
	var e enrolled
	if a.Key != "" {
		if e, err = d.enroll(ctx, a.Key); err != nil {
			return err
		}
	}
	return obey(ctx, e, d.obey)
}

func newDriver(a driveArgs) (*driver, error) {
	root, err := os.ReadFile(filepath.Join(a.AdminDir, "root.pem"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(root) {
		return nil, errors.New("root.pem holds no certificate")
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(a.AdminDir, "admin.pem"), filepath.Join(a.AdminDir, "admin-key.pem"))
	if err != nil {
		return nil, err
	}
	token, err := os.ReadFile(a.TokenFile)
	if err != nil {
		return nil, err
	}
	client := func(certs ...tls.Certificate) *http.Client {
		return &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: pipelined, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: certs}}}
	}
	return &driver{admin: client(pair), reports: client(), token: strings.TrimSpace(string(token))}, nil
}

// post sends one request and reads the answer.
func (d *driver) post(ctx context.Context, c *http.Client, path, token string, in, out any) error {
	return d.call(ctx, c, http.MethodPost, path, token, in, out)
}

// call sends one request to the administration API and reads the answer; out may be nil.
func (d *driver) call(ctx context.Context, c *http.Client, method, path, token string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if token != "" {
		header.Set("Authorization", "Bearer "+token)
	}
	text, err := send(ctx, c, method, "https://"+apiAt+path, header, body)
	if err != nil || out == nil {
		return err
	}
	return json.Unmarshal(text, out)
}

// send sends one request and returns the answer; any that is no success is an error.
func send(ctx context.Context, c *http.Client, method, url string, header http.Header, body []byte) ([]byte, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	r.Header = header
	resp, err := c.Do(r)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, fmt.Errorf("%s %s: %s: %s", method, url, resp.Status, text)
	}
	return text, nil
}

// enroll makes the device and returns what its tunnel needs.
func (d *driver) enroll(ctx context.Context, key string) (enrolled, error) {
	var e enrolled
	var otp api.OTPCreated
	if err := d.post(ctx, d.admin, "/api/v1/otps", "", api.OTPRequest{User: "anna@example.org"}, &otp); err != nil {
		return e, err
	}
	secret, err := code.Parse(otp.Code)
	if err != nil {
		return e, err
	}
	keys, err := newKeyStore()
	if err != nil {
		return e, err
	}
	private, err := tunnel.ParsePrivateKey(key)
	if err != nil {
		return e, err
	}
	if keys.keys.WireGuard, err = ecdh.X25519().NewPrivateKey(private.Bytes()); err != nil {
		return e, err
	}
	c, err := client.New(client.Config{Server: "https://" + enrollAt, Log: quiet()})
	if err != nil {
		return e, err
	}
	got, err := c.Enroll(ctx, secret, keys)
	if err != nil {
		return e, err
	}
	d.device = got.Settings.Device
	e.Gateway, e.Quarantine = got.Welcome.Gateways[0].WireGuard, got.Settings.Quarantine.Addresses
	return e, nil
}

// obey releases and demotes the device, by a report or an event, or reports on many.
func (d *driver) obey(ctx context.Context, o order) (any, error) {
	what, direction, _ := strings.Cut(o.Do, " ")
	switch what {
	case "prepare":
		return nil, d.prepare(ctx, o.N)
	case "nothing":
		return d.nothing(ctx)
	case "up", "down":
		return d.report(ctx, what)
	case "caep":
		return d.signals.send(ctx, d, direction)
	case "webhook":
		return d.hook.send(ctx, d, direction)
	case "batch":
		return d.batch(ctx, direction, o.N)
	case "singles":
		return d.singles(ctx, direction, o.N)
	}
	return unknown(o)
}

// verdicts are what moves a device up and down, and where to.
func verdicts(direction string) (quarantine.Verdict, quarantine.Stage) {
	if direction == "up" {
		return quarantine.Compliant, quarantine.Routed
	}
	return quarantine.NonCompliant, quarantine.Quarantined
}

// report releases or demotes the device by a report.
func (d *driver) report(ctx context.Context, direction string) (any, error) {
	verdict, stage := verdicts(direction)
	d.sequence++
	var placed api.Placed
	s := span{From: testnet.Now()}
	err := d.post(ctx, d.reports, "/api/v1/reports", d.token,
		api.ReportRequest{Device: d.device, Verdict: string(verdict), At: time.Now(), Sequence: d.sequence, Validity: "1h"}, &placed)
	s.To = testnet.Now()
	if err != nil {
		return nil, err
	}
	if !placed.Enforced || placed.Decision.Stage != string(stage) {
		return nil, fmt.Errorf("the device is %s, want %s: %+v", placed.Decision.Stage, stage, placed)
	}
	return s, nil
}

// nothing has the API look one device up and do nothing: the same way there and back as a
// report's, without what a report is about.
func (d *driver) nothing(ctx context.Context) (any, error) {
	s := span{From: testnet.Now()}
	err := d.call(ctx, d.admin, http.MethodGet, "/api/v1/devices/"+d.device, "", nil, nil)
	s.To = testnet.Now()
	return s, err
}
