package claim

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

var (
	// ErrNoMachine reports that what answers is no unclaimed machine.
	ErrNoMachine = errors.New("what answers there is no unclaimed Lazaret machine")
	// ErrProof reports that what answers does not know the code over this connection.
	ErrProof = errors.New("the machine could not show that it knows the code")
	// ErrLost reports that the connection ended before the answer came: the same request may
	// be sent again over another.
	ErrLost = errors.New("the connection ended before the answer came")
)

// Conn is one connection to a machine that has shown that it knows the code.
type Conn struct {
	tls         *tls.Conn
	in          *bufio.Reader
	host        string
	code        Code
	x           Exchange
	request     []byte
	seed        []byte // what the machine's seed said
	fingerprint string
}

const (
	dialTime  = 15 * time.Second // for connecting, and for each short answer
	quietTime = 6 * beat         // without any line, while a gateway is made
)

// NewRequest writes a request for key, whose private half stays with the claimant. Sent once
// more, it must be sent as these same bytes.
func NewRequest(r Request, key *ecdsa.PrivateKey) ([]byte, error) {
	r.Version = version
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: r.Setup.Administrator}}, key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate request: %w", err)
	}
	r.CSR = csr
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("writing the request: %w", err)
	}
	if _, _, err := ParseRequest(text); err != nil {
		return nil, err
	}
	return text, nil
}

// Dial connects to a machine, host:port, and has it prove that it knows the code over this
// very connection. Nothing secret is sent before that, and nothing at all of the request but
// its hash. Seen, which may be nil, gets the certificate's fingerprint as soon as there is one.
// The errors ErrNoMachine, ErrProof and *Refusal are wrapped.
func Dial(ctx context.Context, address string, c Code, request []byte, seen func(fingerprint string)) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", address, err)
	}
	// Nobody vouches for the certificate; the proofs below name the connection instead.
	t := tls.Client(raw, &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	k := &Conn{tls: t, host: address, code: c, request: request}
	if err := k.open(ctx, seen); err != nil {
		t.Close()
		return nil, err
	}
	return k, nil
}

func (k *Conn) open(ctx context.Context, seen func(string)) error {
	if err := k.tls.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("%w: TLS 1.3 with %s: %w", ErrNoMachine, k.host, err)
	}
	state := k.tls.ConnectionState()
	k.fingerprint = Fingerprint(state.PeerCertificates[0].Raw)
	if seen != nil {
		seen(k.fingerprint)
	}
	name, err := exporter(&state)
	if err != nil {
		return err
	}
	k.in = bufio.NewReader(k.tls)
	sum := sha256.Sum256(k.request)
	k.x = Exchange{Exporter: name, Claimant: make(Sum, sumLength), Request: sum[:]}
	rand.Read(k.x.Claimant)
	var o opened
	if err := k.short(ctx, openPath, opening{Nonce: k.x.Claimant, Request: k.x.Request}, &o); errors.Is(err, ErrLost) {
		return fmt.Errorf("%w: %w", ErrNoMachine, err)
	} else if err != nil {
		return err
	}
	return k.proven(o)
}

// proven takes the machine's half of the exchange, if it proves that it knows the code.
func (k *Conn) proven(o opened) error {
	if o.Service != service {
		return ErrNoMachine
	}
	k.x.Machine = o.Nonce
	if !proves(k.code, labelMachine, k.x, o.Seed, o.Proof) {
		return ErrProof
	}
	k.seed = o.Seed
	return nil
}

// Fingerprint is that of the certificate the connection was made with.
func (k *Conn) Fingerprint() string { return k.fingerprint }

// Close ends the connection.
func (k *Conn) Close() error { return k.tls.Close() }

// post sends one request and returns the answer's head; ctx bounds it until release.
func (k *Conn) post(ctx context.Context, path string, body any) (resp *http.Response, release func() bool, err error) {
	text, err := json.Marshal(body)
	if err != nil {
		return nil, nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, urlOf(k.host, path), bytes.NewReader(text))
	if err != nil {
		return nil, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	release = context.AfterFunc(ctx, func() { k.tls.SetDeadline(time.Unix(1, 0)) })
	if err := req.Write(k.tls); err != nil {
		release()
		return nil, nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	resp, err = http.ReadResponse(k.in, req)
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("%w: %w", ErrLost, err)
	}
	return resp, release, nil
}

// short makes a call with a short answer.
func (k *Conn) short(ctx context.Context, path string, in, out any) error {
	if err := k.tls.SetDeadline(time.Now().Add(dialTime)); err != nil {
		return err
	}
	resp, release, err := k.post(ctx, path, in)
	if err != nil {
		return err
	}
	defer release()
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxLine))
	if err != nil {
		return fmt.Errorf("%w: %w", ErrLost, err)
	}
	if resp.StatusCode == http.StatusOK && json.Unmarshal(text, out) == nil {
		return nil
	}
	var l line
	if json.Unmarshal(text, &l) == nil && l.Refusal != nil {
		return l.Refusal
	}
	return fmt.Errorf("%w: it answered %d", ErrNoMachine, resp.StatusCode)
}

// Claim sends the request with the proof, tells progress, and returns the answer, whose MAC
// it has checked. ErrLost is wrapped where the connection ended before.
func (k *Conn) Claim(ctx context.Context, progress func(string)) (Answer, error) {
	proof, err := prove(k.code, labelClaimant, k.x, nil)
	if err != nil {
		return Answer{}, err
	}
	if err := k.tls.SetDeadline(time.Now().Add(quietTime)); err != nil {
		return Answer{}, err
	}
	resp, release, err := k.post(ctx, claimPath, proven{Request: k.request, Proof: proof})
	if err != nil {
		return Answer{}, err
	}
	defer release()
	defer resp.Body.Close()
	in := bufio.NewScanner(resp.Body)
	in.Buffer(make([]byte, 0, 4096), maxLine)
	for in.Scan() {
		if ctx.Err() == nil {
			_ = k.tls.SetDeadline(time.Now().Add(quietTime))
		}
		var l line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return Answer{}, fmt.Errorf("%w: %w", ErrNoMachine, err)
		}
		switch {
		case l.Refusal != nil:
			return Answer{}, l.Refusal
		case l.Answer != nil:
			return k.answer(l)
		case l.Progress != "" && progress != nil:
			progress(l.Progress)
		}
	}
	return Answer{}, fmt.Errorf("%w: %w", ErrLost, errors.Join(in.Err(), ctx.Err()))
}

func (k *Conn) answer(l line) (Answer, error) {
	var a Answer
	if !proves(k.code, labelAnswer, k.x, l.Answer, l.MAC) {
		return a, fmt.Errorf("%w: its answer is not authentic", ErrProof)
	}
	if err := strict(l.Answer, &a); err != nil {
		return a, fmt.Errorf("reading the machine's answer: %w", err)
	}
	if a.Version != version {
		return a, fmt.Errorf("the machine answers with version %d, and this program knows %d", a.Version, version)
	}
	return a, nil
}

// Kept tells the machine that the claimant holds the answer. Only then does it become a
// gateway.
func (k *Conn) Kept(ctx context.Context) error {
	proof, err := prove(k.code, labelKept, k.x, nil)
	if err != nil {
		return err
	}
	var done struct{}
	return k.short(ctx, keptPath, proven{Proof: proof}, &done)
}
