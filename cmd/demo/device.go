package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"crypto/ecdh"

	"lazaret/enroll/client"
	"lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/agentapi"
	"lazaret/internal/testnet"
	"lazaret/quarantine/tunnel"
)

// refusal is the answer to one enrollment message, as it came over the wire.
type refusal struct {
	Status int    `json:"status"`
	Type   string `json:"type"` // Content-Type
	Body   []byte `json:"body"`
	Kind   string `json:"kind"` // of CMP message
	Error  string `json:"error,omitempty"`
}

// runRefused sends the first message of an enrollment, by hand, and reports the bytes of
// the answer. The transaction and nonce are always the same, so that answers which differ
// do so for another reason. The argument is the gateway's URL; the code comes on standard
// input.
func runRefused(ctx context.Context, args []string) error {
	text, err := io.ReadAll(io.LimitReader(os.Stdin, 4096))
	if err != nil {
		return err
	}
	c, err := code.Parse(strings.TrimSpace(string(text)))
	if err != nil {
		return err
	}
	r, err := firstMessage(ctx, args[0], c)
	if err != nil {
		r.Error = err.Error()
	}
	return testnet.Report(r)
}

func firstMessage(ctx context.Context, server string, c code.Code) (refusal, error) {
	h := cmp.NewHeader(time.Now())
	h.TransactionID, h.SenderNonce = bytes.Repeat([]byte{0x11}, 16), bytes.Repeat([]byte{0x22}, 16)
	h.Sender, h.SenderKID = cmp.CommonName(c.Reference), []byte(c.Reference)
	m := &cmp.Message{Header: h, Body: cmp.Body{Kind: cmp.GenM, Infos: []cmp.Info{cmp.CACertsInfo()}}}
	if err := m.ProtectMAC([]byte(c.Secret), cmp.NewMACParams()); err != nil {
		return refusal{}, err
	}
	der, err := m.Marshal()
	if err != nil {
		return refusal{}, err
	}
	// Nothing is known of the gateway yet, and nothing of its answer is trusted.
	t := &http.Transport{TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true}}
	defer t.CloseIdleConnections()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, server+"/.well-known/cmp", bytes.NewReader(der))
	if err != nil {
		return refusal{}, err
	}
	req.Header.Set("Content-Type", "application/pkixcmp")
	resp, err := (&http.Client{Transport: t, Timeout: 15 * time.Second}).Do(req)
	if err != nil {
		return refusal{}, err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, cmp.MaxSize))
	if err != nil {
		return refusal{}, err
	}
	r := refusal{Status: resp.StatusCode, Type: resp.Header.Get("Content-Type"), Body: body}
	answer, err := cmp.Parse(body)
	if err != nil {
		return r, err
	}
	r.Kind = map[cmp.Kind]string{cmp.GenP: "genp", cmp.Error: "error"}[answer.Body.Kind]
	return r, nil
}

// deviceState is what an agent keeps, as far as the demo plays one itself.
type deviceState struct {
	Server      string       `json:"server"`
	Root        []byte       `json:"root"`
	Certificate []byte       `json:"certificate"`
	Chain       [][]byte     `json:"chain"`
	Listeners   [][]byte     `json:"listener_keys"`
	ProofKeyID  string       `json:"proof_key_id"`
	ProofKey    []byte       `json:"proof_key"`
	Settings    cmp.Settings `json:"settings"`

	key tls.Certificate
}

func readState(dir string) (deviceState, error) {
	var st deviceState
	text, err := os.ReadFile(filepath.Join(dir, "device.json"))
	if err != nil {
		return st, err
	}
	if err := json.Unmarshal(text, &st); err != nil {
		return st, err
	}
	keyText, err := os.ReadFile(filepath.Join(dir, "device.key"))
	if err != nil {
		return st, err
	}
	block, _ := pem.Decode(keyText)
	if block == nil {
		return st, errors.New("the device's key is no PEM")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return st, err
	}
	st.key = tls.Certificate{Certificate: append([][]byte{st.Certificate}, st.Chain...), PrivateKey: key}
	return st, nil
}

// runSelfReport tells the gateway, as a device would that says anything to get out, that
// it is compliant; the argument is the state directory. It reports the gateway's answer.
func runSelfReport(ctx context.Context, args []string) error {
	st, err := readState(args[0])
	if err != nil {
		return err
	}
	root, err := x509.ParseCertificate(st.Root)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AddCert(root)
	c := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: pool, Certificates: []tls.Certificate{st.key}},
	}}
	body, err := json.Marshal(agentapi.Report{Verdict: "compliant", At: time.Now().UTC(), Sequence: 1})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, st.Settings.Gateways[0].API+agentapi.ReportPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var out agentapi.Status
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the gateway answered %s", resp.Status)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&out); err != nil {
		return err
	}
	return testnet.Report(out)
}

// renewed is what runRenew reports.
type renewed struct {
	Serial string `json:"serial,omitempty"`
	Error  string `json:"error,omitempty"`
}

// runRenew asks for a new certificate with the present one, and keeps nothing; the
// argument is the state directory.
func runRenew(ctx context.Context, args []string) error {
	r, err := renew(ctx, args[0])
	if err != nil {
		return testnet.Report(renewed{Error: err.Error()})
	}
	return testnet.Report(renewed{Serial: r.Certificate.SerialNumber.Text(16)})
}

func renew(ctx context.Context, dir string) (*client.Result, error) {
	st, err := readState(dir)
	if err != nil {
		return nil, err
	}
	wg, err := tunnel.LoadOrCreateKey(filepath.Join(dir, "wireguard.key"))
	if err != nil {
		return nil, err
	}
	x, err := ecdh.X25519().NewPrivateKey(wg.Bytes())
	if err != nil {
		return nil, err
	}
	next, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	current, err := st.result()
	if err != nil {
		return nil, err
	}
	key, ok := st.key.PrivateKey.(*ecdsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("the device's key is a %T", st.key.PrivateKey)
	}
	c, err := client.New(client.Config{Server: st.Server, Log: logger(), Attempts: 2})
	if err != nil {
		return nil, err
	}
	return c.Renew(ctx, current, key, forgetful{client.Keys{Certificate: next, WireGuard: x}})
}

// result is the state as package client knows it.
func (st deviceState) result() (*client.Result, error) {
	root, err := x509.ParseCertificate(st.Root)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(st.Certificate)
	if err != nil {
		return nil, err
	}
	r := &client.Result{Certificate: leaf, Root: root, Settings: st.Settings}
	r.Welcome = cmp.Welcome{Version: 1, ListenerKeys: st.Listeners, ProofKeyID: st.ProofKeyID, ProofKey: st.ProofKey}
	for _, der := range st.Chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, err
		}
		r.Chain = append(r.Chain, c)
	}
	return r, nil
}

// forgetful is a store that keeps nothing.
type forgetful struct{ keys client.Keys }

func (f forgetful) Keys(context.Context) (client.Keys, error)  { return f.keys, nil }
func (f forgetful) Save(context.Context, *client.Result) error { return nil }

// short is a fingerprint that a person can compare.
func short(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:6])
}
