package pki

import (
	"crypto/x509"
	"encoding/asn1"
	"testing"
	"time"
)

// TestHierarchyFromBeforeManagers: a servers' authority that names no usage of a Manager is
// one that an earlier version made, and goes on; a Manager's leaf below it is one all the
// same. An authority that names a Manager's usage alone is nobody's.
func TestHierarchyFromBeforeManagers(t *testing.T) {
	h := hierarchy(t)
	older := func(unknown ...asn1.ObjectIdentifier) error {
		c := config(h)
		c.Servers = below(t, h, func(cert *x509.Certificate) {
			cert.ExtKeyUsage, cert.UnknownExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, unknown
		})
		a, err := New(c)
		if err != nil {
			return err
		}
		m, err := a.NewManager(t.Context(), time.Minute)
		if err != nil {
			t.Fatal(err)
		}
		return a.VerifyManager(m.Certificate, start)
	}
	if err := older(oidCMCRA); err != nil {
		t.Errorf("an older authority: %v", err)
	}
	for name, unknown := range map[string][]asn1.ObjectIdentifier{"none": nil, "a manager's alone": {oidConfigSigning}, "turned round": {oidConfigSigning, oidCMCRA}} {
		if older(unknown...) == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
