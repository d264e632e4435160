package main

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"golang.org/x/sys/unix"

	"lazaret/enroll"
	"lazaret/enroll/client"
	"lazaret/enroll/code"
	"lazaret/pki"
	"lazaret/quarantine"
	"lazaret/quarantine/tunnel"
)

func (s *session) enrollmentsPerRound() int {
	if s.quick {
		return 10
	}
	return 20
}

// measureEnrollment compares whole enrollments with the work that no enrollment of this
// kind could do without.
func measureEnrollment(ctx context.Context, s *session) error {
	at, err := openSite(ctx)
	if err != nil {
		return err
	}
	defer at.Close()
	least, err := newFloor(at)
	if err != nil {
		return err
	}
	defer least.Close()
	var whole, bare rounds
	var parts [3]samples
	var cpu [2]time.Duration
	for r := range s.rounds + 1 { // the first is for warming up
		var a, b samples
		for i := range s.enrollmentsPerRound() {
			e, err := at.prepare(ctx, r*s.enrollmentsPerRound()+i)
			if err != nil {
				return err
			}
			took, busy, err := at.timed(ctx, e.run)
			if err != nil {
				return err
			}
			a, cpu[0] = append(a, took), cpu[0]+busy
			for i, p := range e.parts {
				parts[i] = append(parts[i], p)
			}
			if err := least.prepare(ctx, r*s.enrollmentsPerRound()+i); err != nil {
				return err
			}
			if took, busy, err = at.timed(ctx, least.run); err != nil {
				return err
			}
			b, cpu[1] = append(b, took), cpu[1]+busy
		}
		if r > 0 {
			whole, bare = append(whole, a), append(bare, b)
		}
	}
	s.add(row{Name: "floor of an enrollment, p50", Value: millis(bare.median()), Unit: "ms", ComparedWith: floorIs})
	for i, what := range []string{"root asked for (with the handshake)", "certificate asked for", "certificate confirmed"} {
		s.add(row{Name: "enrollment: " + what + ", p50", Value: millis(parts[i].median()), Unit: "ms", ComparedWith: "a part of the following"})
	}
	s.add(row{Name: "full enrollment, p50", Value: millis(whole.median()), Unit: "ms", ComparedWith: "its floor; both ends in this process, real store and authorities, no data plane",
		Base: number(millis(bare.median())), Ratio: number(whole.over(bare)), Bound: number(2)})
	n := time.Duration((s.rounds + 1) * s.enrollmentsPerRound())
	s.add(row{Name: "full enrollment, processor time, mean", Value: millis(cpu[0] / n), Unit: "ms", Base: number(millis(cpu[1] / n)), Ratio: number(float64(cpu[0]) / float64(cpu[1])),
		ComparedWith: "its floor's; with the audit log's chaining in both"})
	return nil
}

// timed measures one operation: its duration, and the processor time of this process until
// its audit entries are chained, so that one operation's do not fall into the next.
func (s *site) timed(ctx context.Context, do func(context.Context) error) (took, busy time.Duration, err error) {
	before, err := processorTime()
	if err != nil {
		return 0, 0, err
	}
	start := time.Now()
	if err := do(ctx); err != nil {
		return 0, 0, err
	}
	took = time.Since(start)
	if err := s.store.FlushAudit(ctx); err != nil {
		return 0, 0, err
	}
	after, err := processorTime()
	return took, after - before, err
}

// processorTime is what this process used so far, in user and kernel mode.
func processorTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("reading the processor time: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// enrollment is one device about to enroll by the agent's own client. Its password and
// keys are there before it begins.
type enrollment struct {
	client *client.Client
	code   code.Code
	keys   *keyStore
	parts  [3]time.Duration // of the three pairs of messages
}

func (s *site) prepare(ctx context.Context, n int) (*enrollment, error) {
	otp, _, err := s.desk.CreateOTP(ctx, administrator, enroll.Request{User: deviceName(n), Profile: "default"})
	if err != nil {
		return nil, err
	}
	keys, err := newKeyStore()
	if err != nil {
		return nil, err
	}
	c, err := client.New(client.Config{Server: "https://" + s.listener.Addr().String(), Log: quiet(), Attempts: 1})
	if err != nil {
		return nil, err
	}
	return &enrollment{client: c, code: otp, keys: keys}, s.store.FlushAudit(ctx)
}

func (e *enrollment) run(ctx context.Context) error {
	start := time.Now()
	lap := func(i int) {
		e.parts[i] = time.Since(start)
		start = time.Now()
	}
	under, err := e.client.Begin(ctx, e.code)
	if err != nil {
		return err
	}
	defer under.Close()
	lap(0)
	if _, err := under.Request(ctx, e.keys.keys); err != nil {
		return err
	}
	lap(1)
	err = under.Confirm(ctx)
	lap(2)
	return err
}

const floorIs = "one TLS 1.3 handshake, six PasswordBasedMacs (500 rounds) made and checked, one CSR checked, one certificate signed, one store write: the transaction that makes a device of a one-time password"

// floor does what is in floorIs with the standard library and the store, and nothing else.
type floor struct {
	site     *site
	listener net.Listener
	accepted chan error
	csr      []byte
	template *x509.Certificate
	key      any
	issuance enroll.Issuance // what the next run writes
}

// prepare makes a one-time password for the next run to use up.
func (f *floor) prepare(ctx context.Context, n int) error {
	otp, _, err := f.site.desk.CreateOTP(ctx, administrator, enroll.Request{User: "floor-" + deviceName(n), Profile: "default"})
	if err != nil {
		return err
	}
	o, err := f.site.store.OTP(ctx, otp.Reference)
	if err != nil {
		return err
	}
	id := quarantine.ID(fmt.Sprintf("floor-%020d", n))
	var key tunnel.Key
	rand.Read(key[:])
	r := quarantine.Record{
		Device:  quarantine.Device{ID: id, Name: string(id), Owner: o.User, Key: key, Pool: "quarantine", Stage: quarantine.Quarantined, Since: time.Now()},
		Profile: "default", Proven: true,
		Certificate: quarantine.Certificate{Serial: string(id), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), SPKI: [32]byte(key), Sum: [32]byte(key)},
	}
	o.State = enroll.Issued
	o.Answer = enroll.Answer{
		Device: id, SPKI: [32]byte(key), WireGuard: key, Transaction: key[:16], Certificate: make([]byte, certificateSize), Issued: time.Now(),
	}
	f.issuance = enroll.Issuance{By: administrator, OTP: o, Record: r, LastSeat: 60000}
	return f.site.store.FlushAudit(ctx)
}

// certificateSize is about what a device's certificate takes, in bytes.
const certificateSize = 520

func newFloor(s *site) (*floor, error) {
	key, err := pki.GenerateKey()
	if err != nil {
		return nil, err
	}
	uri := pki.WireGuardURI(deviceKey(1))
	f := &floor{site: s, accepted: make(chan error), key: key.Public()}
	f.csr, err = x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "bench"}, URIs: []*url.URL{uri}}, key)
	if err != nil {
		return nil, err
	}
	f.template = &x509.Certificate{
		SerialNumber: big.NewInt(1 << 62), Subject: pkix.Name{CommonName: "d-00000000000000000000"}, URIs: []*url.URL{uri},
		NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	if f.listener, err = tls.Listen("tcp", "127.0.0.1:0", s.tls); err != nil {
		return nil, err
	}
	go f.accept() // ends with the listener
	return f, nil
}

func (f *floor) Close() error { return f.listener.Close() }

// accept shakes hands with one client after the other.
func (f *floor) accept() {
	for {
		c, err := f.listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err == nil {
			err = c.(*tls.Conn).Handshake()
			c.Close()
		}
		f.accepted <- err
	}
}

func (f *floor) run(ctx context.Context) error {
	if err := f.handshake(ctx); err != nil {
		return err
	}
	if err := sixMACs(); err != nil {
		return err
	}
	r, err := x509.ParseCertificateRequest(f.csr)
	if err != nil {
		return err
	}
	if err := r.CheckSignature(); err != nil {
		return err
	}
	by := f.site.hierarchy.Devices
	if _, err := x509.CreateCertificate(rand.Reader, f.template, by.Certificate, f.key, by.Key); err != nil {
		return err
	}
	_, err = f.site.store.Issue(ctx, f.issuance)
	return err
}

func (f *floor) handshake(ctx context.Context) error {
	var d net.Dialer
	raw, err := d.DialContext(ctx, "tcp", f.listener.Addr().String())
	if err != nil {
		return err
	}
	// The device knows no authority yet: the agent's client does not verify either.
	c := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true})
	defer c.Close()
	return errors.Join(c.HandshakeContext(ctx), <-f.accepted)
}

// messageSize is about what the six messages of an enrollment take on average, in bytes.
const messageSize = 1024

// sixMACs makes and checks six PasswordBasedMacs (RFC 9810, section 5.1.3.1), each with a
// salt of its own.
func sixMACs() error {
	secret, message := []byte("0123456789ABCDEF"), make([]byte, messageSize)
	for range 6 {
		salt := make([]byte, 16)
		rand.Read(salt)
		if !hmac.Equal(passwordMAC(secret, salt, message), passwordMAC(secret, salt, message)) {
			return fmt.Errorf("a MAC does not match itself")
		}
	}
	return nil
}

func passwordMAC(secret, salt, message []byte) []byte {
	key := sha256.Sum256(append(append([]byte(nil), secret...), salt...))
	for range 499 {
		key = sha256.Sum256(key[:])
	}
	h := hmac.New(sha256.New, key[:])
	h.Write(message)
	return h.Sum(nil)
}
