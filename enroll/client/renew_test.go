package client

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"lazaret/enroll/cmp"
)

// enrolled is a gateway with one device enrolled at it.
func enrolled(t *testing.T) (*gateway, *Result, crypto.Signer) {
	t.Helper()
	g, store := newGateway(t), &memory{}
	r, err := g.client(t).Enroll(t.Context(), g.code, store)
	if err != nil {
		t.Fatal(err)
	}
	g.seen = nil
	return g, r, store.keys.Certificate
}

func TestRenew(t *testing.T) {
	g, current, key := enrolled(t)
	next := g.welcome
	next.ProofKeyID = "k2"
	info, err := cmp.WelcomeInfo(next)
	if err != nil {
		t.Fatal(err)
	}
	g.shape = func(_ *http.Request, m *cmp.Message) {
		if m.Body.Kind == cmp.KUP {
			m.Header.GeneralInfo = append(m.Header.GeneralInfo, info)
		}
	}
	store := &memory{}
	r, err := g.client(t).Renew(t.Context(), current, key, store)
	if err != nil {
		t.Fatal(err)
	}
	if got := g.requests(); !slices.Equal(got, []cmp.Kind{cmp.KUR, cmp.CertConf}) {
		t.Errorf("gateway took %v", got)
	}
	if store.saved != r || r.Certificate.Equal(current.Certificate) || !r.Root.Equal(g.root) || r.Welcome.ProofKeyID != "k2" || current.Welcome.ProofKeyID != "k1" {
		t.Errorf("result is %+v", r)
	}
	request := g.last[cmp.KUR].Body.Requests[0]
	if !request.Old.Names(current.Certificate) || !bytes.Equal(request.Template.Subject, current.Certificate.RawSubject) {
		t.Errorf("request updates %+v", request.Old)
	}
	// The renewed certificate renews in turn.
	if _, err := g.client(t).Renew(t.Context(), r, store.keys.Certificate, &memory{}); err == nil {
		t.Error("the gateway does not know proof key k2, yet renewed")
	}
	r.Welcome.ProofKeyID = "k1"
	if _, err := g.client(t).Renew(t.Context(), r, store.keys.Certificate, &memory{}); err != nil {
		t.Error(err)
	}
}

func TestRenewLostAnswers(t *testing.T) {
	for _, kind := range []cmp.Kind{cmp.KUR, cmp.CertConf} {
		g, current, key := enrolled(t)
		g.lose[kind] = 2
		store := &memory{}
		if _, err := g.client(t).Renew(t.Context(), current, key, store); err != nil || len(g.issuedTo) != 2 {
			t.Errorf("answer to %d lost: %v, %d certificates in all", kind, err, len(g.issuedTo))
		}
		g.lose[kind] = 3
		r, err := g.client(t).Renew(t.Context(), current, key, store)
		if errors.Is(err, ErrUnconfirmed) != (kind == cmp.CertConf) || (r != nil) != (kind == cmp.CertConf) || err == nil {
			t.Errorf("answer to %d always lost: %v", kind, err)
		}
	}
}

// TestRootChanged: O1. Whatever way another root shows itself, it is refused and logged.
func TestRootChanged(t *testing.T) {
	other := newAuthority(t, "Test") // of the same name
	for name, change := range map[string]func(*gateway){
		"signer below another root": func(g *gateway) { g.responder, g.responderKey = other.responder, other.responderKey },
		"another root in caPubs": func(g *gateway) {
			g.shape = func(_ *http.Request, m *cmp.Message) { m.Body.CAPubs = [][]byte{other.root.Raw} }
		},
	} {
		g, current, key := enrolled(t)
		change(g)
		var log bytes.Buffer
		store := &memory{}
		_, err := g.client(t, func(c *Config) { c.Log = slog.New(slog.NewTextHandler(&log, nil)) }).Renew(t.Context(), current, key, store)
		if !errors.Is(err, ErrRootChanged) || store.saved != nil {
			t.Errorf("%s: %v", name, err)
		}
		recorded := fmt.Sprintf("%x", sha256.Sum256(current.Root.Raw))
		if !strings.Contains(log.String(), "level=ERROR") || !strings.Contains(log.String(), recorded) {
			t.Errorf("%s: logged %s", name, log.String())
		}
	}
}

// TestResponderRights: only the CMP responder answers, not whoever else the CA certified.
func TestResponderRights(t *testing.T) {
	for name, template := range map[string]*x509.Certificate{
		"no cmcRA":             {KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}},
		"no digital signature": {KeyUsage: x509.KeyUsageKeyEncipherment, UnknownExtKeyUsage: newAuthority(t, "x").responder.UnknownExtKeyUsage},
	} {
		g, current, key := enrolled(t)
		template.Subject = pkix.Name{CommonName: name}
		g.responderKey = ecKey(t)
		g.responder = sign(t, template, g.root, g.responderKey.Public(), g.rootKey)
		if _, err := g.client(t).Renew(t.Context(), current, key, &memory{}); !errors.Is(err, ErrInBetween) {
			t.Errorf("%s: %v", name, err)
		}
	}
	g, current, key := enrolled(t)
	g.responder, g.responderKey = g.root, g.rootKey
	if _, err := g.client(t).Renew(t.Context(), current, key, &memory{}); err == nil {
		t.Error("root taken for a responder")
	}
}

func TestRenewClock(t *testing.T) {
	g, current, key := enrolled(t)
	_, err := g.client(t, func(c *Config) {
		c.Now = func() time.Time { return time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC) }
	}).Renew(t.Context(), current, key, &memory{})
	if err == nil || !strings.Contains(err.Error(), "check the clock") || errors.Is(err, ErrRootChanged) {
		t.Errorf("clock of 2020: %v", err)
	}
}

// TestRenewPinned: the recorded listener keys hold for every later connection.
func TestRenewPinned(t *testing.T) {
	g, current, key := enrolled(t)
	moved := *current
	moved.Welcome.ListenerKeys = current.Welcome.ListenerKeys[:1]
	if _, err := g.client(t).Renew(t.Context(), &moved, key, &memory{}); !errors.Is(err, ErrInBetween) || strings.Contains(err.Error(), "wrong code") {
		t.Errorf("listener of an unknown key: %v", err)
	}
	moved.Welcome.ListenerKeys = nil
	if _, err := g.client(t).Renew(t.Context(), &moved, key, &memory{}); err == nil {
		t.Error("renewed with no listener keys recorded")
	}
	if got := g.requests(); len(got) != 0 {
		t.Errorf("gateway took %v", got)
	}
	if _, err := g.client(t).Renew(t.Context(), current, ecKey(t), &memory{}); !errors.Is(err, ErrRefused) {
		t.Errorf("signed by another key: %v", err)
	}
}
