package claim

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
)

// Credential is what an administrator needs to reach a gateway, in one file.
type Credential struct {
	Server string // URL of the API
	Root   []byte // certificate (DER)
	Chain  [][]byte
	Key    *ecdsa.PrivateKey
}

const serverLine = "# server: "

// CredentialName is what the file is called.
const CredentialName = "lazaret-admin.pem"

// maxCredential is far more than four blocks need, in bytes.
const maxCredential = 64 << 10

// CredentialOf puts an answer and the key it was made for together. An answer for another
// key is refused.
func CredentialOf(a Answer, key *ecdsa.PrivateKey) (Credential, error) {
	c := Credential{Server: a.API, Root: a.Root, Chain: a.Administrator, Key: key}
	return c, c.check()
}

// check makes sure that the parts belong together: the key to the certificate, and that, as
// a client's, to the root.
func (c Credential) check() error {
	if !strings.HasPrefix(c.Server, "https://") || strings.ContainsAny(c.Server, " \r\n\t") {
		return errors.New("the credential names no https:// server")
	}
	root, err := x509.ParseCertificate(c.Root)
	if err != nil {
		return fmt.Errorf("reading the root certificate: %w", err)
	}
	if len(c.Chain) == 0 || c.Key == nil {
		return errors.New("the credential has no certificate or no key of the administrator")
	}
	leaf, err := x509.ParseCertificate(c.Chain[0])
	if err != nil {
		return fmt.Errorf("reading the administrator's certificate: %w", err)
	}
	if public, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(c.Key.Public()) {
		return errors.New("the administrator's certificate is for another key")
	}
	o := x509.VerifyOptions{Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(), CurrentTime: leaf.NotBefore, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	o.Roots.AddCert(root)
	for _, der := range c.Chain[1:] {
		cert, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("reading the administrator's authority: %w", err)
		}
		o.Intermediates.AddCert(cert)
	}
	if _, err := leaf.Verify(o); err != nil {
		return fmt.Errorf("the administrator's certificate is not from this root: %w", err)
	}
	return nil
}

// RootPEM, ChainPEM and KeyPEM are the parts as files of their own.
func (c Credential) RootPEM() []byte { return block("CERTIFICATE", c.Root) }

// ChainPEM is the administrator's certificate and its authority's.
func (c Credential) ChainPEM() []byte {
	var out []byte
	for _, der := range c.Chain {
		out = append(out, block("CERTIFICATE", der)...)
	}
	return out
}

// KeyPEM is the private key, PKCS#8.
func (c Credential) KeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(c.Key)
	if err != nil {
		return nil, fmt.Errorf("writing the administrator's key: %w", err)
	}
	return block("PRIVATE KEY", der), nil
}

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// File writes the credential as one file.
func (c Credential) File() ([]byte, error) {
	key, err := c.KeyPEM()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Credential of a Lazaret gateway's administrator. Who has this file administers the gateway.\n# Import it with: lazaretctl connect %s\n%s%s\n", CredentialName, serverLine, c.Server)
	b.Write(c.RootPEM())
	b.Write(c.ChainPEM())
	b.Write(key)
	return b.Bytes(), nil
}

// ParseCredential reads what File wrote: the server, the root, the chain, the key.
func ParseCredential(text []byte) (Credential, error) {
	var c Credential
	if len(text) > maxCredential {
		return c, fmt.Errorf("the file is longer than %d KiB", maxCredential>>10)
	}
	for l := range strings.Lines(string(text)) {
		if server, ok := strings.CutPrefix(strings.TrimRight(l, "\r\n"), serverLine); ok && c.Server == "" {
			c.Server = server
		}
	}
	for rest := text; ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		switch {
		case b.Type == "CERTIFICATE" && c.Root == nil:
			c.Root = b.Bytes
		case b.Type == "CERTIFICATE":
			c.Chain = append(c.Chain, b.Bytes)
		case b.Type == "PRIVATE KEY" && c.Key == nil:
			key, err := x509.ParsePKCS8PrivateKey(b.Bytes)
			if err != nil {
				return c, fmt.Errorf("reading the administrator's key: %w", err)
			}
			c.Key, _ = key.(*ecdsa.PrivateKey) // another kind is missing below
		default:
			return c, fmt.Errorf("the file holds %q where none belongs", b.Type)
		}
	}
	return c, c.check()
}
