package pki

import (
	"crypto/rand"
	"crypto/x509"
	"net/url"
	"testing"
)

// BenchmarkIssue compares Issue with crypto/x509 alone, for the same certificate.
func BenchmarkIssue(b *testing.B) {
	a, h, r := authority(b), hierarchy(b), deviceRequest(b)
	w, err := a.plan(r)
	if err != nil {
		b.Fatal(err)
	}
	template, err := w.template(r.PublicKey)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("Issue", func(b *testing.B) {
		for b.Loop() {
			if _, err := a.Issue(b.Context(), r); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("CreateCertificate", func(b *testing.B) {
		for b.Loop() {
			if _, err := x509.CreateCertificate(rand.Reader, template, h.Devices.Certificate, r.PublicKey, h.Devices.Key); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCheckCSR(b *testing.B) {
	raw := makeCSR(b, newKey(b), x509.CertificateRequest{URIs: []*url.URL{WireGuardURI([32]byte{9})}})
	for b.Loop() {
		if _, err := CheckCSR(raw, Allow{}); err != nil {
			b.Fatal(err)
		}
	}
}
