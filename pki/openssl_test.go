package pki

import (
	"bytes"
	"encoding/pem"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/internal/testneed"
)

// openssl runs the witness in dir and returns what it printed.
func openssl(t *testing.T, dir string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), testneed.Program(t, "openssl"), args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func writePEM(t *testing.T, path, kind string, der []byte) {
	t.Helper()
	if err := os.WriteFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOpenSSLAgrees has OpenSSL verify each kind of leaf for each purpose.
func TestOpenSSLAgrees(t *testing.T) {
	testneed.Program(t, "openssl")
	h, a := hierarchy(t), authority(t)
	dir := t.TempDir()
	for name, p := range map[string]KeyPair{"root": h.Root, "device": h.Devices, "server": h.Servers, "administrator": h.Administrators} {
		writePEM(t, filepath.Join(dir, name+"-ca.pem"), "CERTIFICATE", p.Certificate.Raw)
	}
	requests := map[Kind]Request{
		Device: deviceRequest(t), Server: serverRequest(t),
		Administrator: {Kind: Administrator, PublicKey: newKey(t).Public(), CommonName: "admin", NotAfter: start.Add(time.Hour)},
		Responder:     {Kind: Responder, PublicKey: newKey(t).Public(), CommonName: "CMP responder", NotAfter: start.Add(time.Hour)},
		Manager:       {Kind: Manager, PublicKey: newKey(t).Public(), CommonName: "Management signer", NotAfter: start.Add(time.Hour)},
	}
	purposes := map[Kind]string{Device: "sslclient", Administrator: "sslclient", Server: "sslserver"}
	for kind, r := range requests {
		leaf := string(kind) + ".pem"
		writePEM(t, filepath.Join(dir, leaf), "CERTIFICATE", issued(t, a, r).Raw)
		by := string(kind)
		if kind == Responder || kind == Manager {
			by = "server"
		}
		at := strconv.FormatInt(start.Unix(), 10)
		verify := []string{"verify", "-x509_strict", "-attime", at, "-CAfile", "root-ca.pem", "-untrusted", by + "-ca.pem"}
		if out, err := openssl(t, dir, append(verify, leaf)...); err != nil {
			t.Errorf("%s: %s", kind, out)
		}
		for _, purpose := range []string{"sslclient", "sslserver", "smimesign", "timestampsign"} {
			out, err := openssl(t, dir, append(verify, "-purpose", purpose, leaf)...)
			if (err == nil) != (purposes[kind] == purpose) {
				t.Errorf("%s as %s: %s", kind, purpose, out)
			}
		}
		text, err := openssl(t, dir, "x509", "-in", leaf, "-noout", "-text")
		if err != nil || strings.Contains(text, "CA:TRUE") || !strings.Contains(text, "CA:FALSE") ||
			strings.Count(text, "Digital Signature\n") != 1 || strings.Contains(text, "Certificate Sign") {
			t.Errorf("%s: %v\n%s", kind, err, text)
		}
		for _, u := range r.URIs {
			if !strings.Contains(text, "URI:"+u.String()+"\n") {
				t.Errorf("%s: no line with %s alone\n%s", kind, u, text)
			}
		}
		if kind == Manager && !strings.Contains(text, "1.3.6.1.5.5.7.3.41\n") {
			t.Errorf("manager: no id-kp-configSigning\n%s", text)
		}
		if kind == Responder && !strings.Contains(text, "CMC Registration Authority\n") {
			t.Errorf("responder: no id-kp-cmcRA\n%s", text)
		}
	}
	// A leaf cannot stand in for an authority.
	out, err := openssl(t, dir, "verify", "-attime", strconv.FormatInt(start.Unix(), 10), "-CAfile", "root-ca.pem", "-untrusted", "server-ca.pem", "device.pem")
	if err == nil {
		t.Errorf("a device verified below the servers' authority: %s", out)
	}
}

// TestOpenSSLRequest takes a request that OpenSSL made.
func TestOpenSSLRequest(t *testing.T) {
	testneed.Program(t, "openssl")
	dir := t.TempDir()
	key := newKey(t)
	der, err := MarshalKey(key)
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, filepath.Join(dir, "key.pem"), "PRIVATE KEY", der)
	u := WireGuardURI([32]byte{0xfb, 0xff, 0xfe}) // has - and _ in it
	config := "[req]\ndistinguished_name=dn\nprompt=no\n[dn]\nCN=whatever\n[ext]\nsubjectAltName=URI:" + u.String() +
		",DNS:gw.example.com\nbasicConstraints=CA:TRUE\n"
	if err := os.WriteFile(filepath.Join(dir, "req.cnf"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := openssl(t, dir, "req", "-new", "-config", "req.cnf", "-reqexts", "ext", "-key", "key.pem", "-outform", "DER", "-out", "req.der"); err != nil {
		t.Fatal(out)
	}
	raw, err := os.ReadFile(filepath.Join(dir, "req.der"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := CheckCSR(raw, Allow{})
	if err != nil {
		t.Fatal(err)
	}
	if !key.PublicKey.Equal(c.PublicKey) || !c.RequestsCA || len(c.WireGuard) != 1 || c.WireGuard[0].String() != u.String() {
		t.Errorf("%+v", c)
	}
	r := deviceRequest(t)
	r.PublicKey, r.URIs = c.PublicKey, []*url.URL{u}
	writePEM(t, filepath.Join(dir, "leaf.pem"), "CERTIFICATE", issued(t, authority(t), r).Raw)
	a, err := openssl(t, dir, "x509", "-in", "leaf.pem", "-noout", "-pubkey")
	if err != nil {
		t.Fatal(a)
	}
	b, err := openssl(t, dir, "pkey", "-in", "key.pem", "-pubout")
	if err != nil {
		t.Fatal(b)
	}
	if !bytes.Equal([]byte(a), []byte(b)) {
		t.Error("the certificate is for another key")
	}
}
