package daemon

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"time"

	"lazaret/internal/alert"
	"lazaret/internal/audit"
	"lazaret/internal/console"
	"lazaret/internal/console/api"
	"lazaret/internal/servercert"
	"lazaret/internal/store"
	"lazaret/quarantine"
)

// certificateStore keeps a gateway's blobs as sealed secrets.
type certificateStore struct {
	secrets *store.Secrets
	gateway string
}

func (s certificateStore) name(blob string) string { return "certificate/" + s.gateway + "/" + blob }

// Get implements servercert.Store.
func (s certificateStore) Get(ctx context.Context, name string) ([]byte, error) {
	b, err := s.secrets.Get(ctx, s.name(name))
	if errors.Is(err, store.ErrNotFound) {
		return nil, fmt.Errorf("%s: %w", name, fs.ErrNotExist)
	}
	return b, err
}

// Put implements servercert.Store.
func (s certificateStore) Put(ctx context.Context, name string, blob []byte) error {
	return s.secrets.Put(ctx, s.name(name), blob)
}

// Delete implements servercert.Store.
func (s certificateStore) Delete(ctx context.Context, name string) error {
	return secrets{s.secrets}.Delete(ctx, s.name(name))
}

// trustedCertificate keeps the certificate for those who know no root of ours.
func (k *control) trustedCertificate(ctx context.Context) (*servercert.Keeper, error) {
	var names []string
	for _, n := range k.config.Enroll.Names {
		if _, err := netip.ParseAddr(n); err != nil {
			names = append(names, n)
		}
	}
	self := quarantine.Actor{Kind: "gateway", Name: k.config.Name}
	return servercert.New(ctx, servercert.Config{
		Own: k.listener.GetCertificate, Names: names, Store: certificateStore{k.store.Secrets(), k.config.Name}, Log: k.log,
		Proxy: k.config.Firewall.HTTPProxy, Note: k.certificateNote(self),
	})
}

func (k *control) certificateNote(by quarantine.Actor) servercert.Note {
	return func(ctx context.Context, action string, detail map[string]string) error {
		return k.store.Audit(ctx, audit.Entry{
			Actor: audit.Actor{Kind: by.Kind, Name: by.Name, Address: by.Address}, Action: action, Subject: k.config.Name, Detail: detail,
		})
	}
}

// certificates is the keeper as the console knows it.
type certificates struct{ k *control }

var _ console.Certificates = certificates{}

// translateCertificate names the keeper's errors as the console knows them.
func translateCertificate(err error) error {
	for from, to := range map[error]error{
		servercert.ErrInvalid: console.ErrInvalid, servercert.ErrACME: console.ErrInUse, servercert.ErrNone: console.ErrNotSet, servercert.ErrNoACME: console.ErrNotSet, servercert.ErrSoon: console.ErrPace,
	} {
		if errors.Is(err, from) {
			return fmt.Errorf("%w: %w", to, err)
		}
	}
	return err
}

// Request implements console.Certificates.
func (c certificates) Request(ctx context.Context, by quarantine.Actor, q api.CertificateRequest) (api.CertificateRequested, error) {
	text, names, err := c.k.trusted.Request(ctx, c.k.certificateNote(by), q.Names, q.Key)
	return api.CertificateRequested{Names: names, Request: string(text)}, translateCertificate(err)
}

// Set implements console.Certificates.
func (c certificates) Set(ctx context.Context, by quarantine.Actor, q api.CertificateSet) error {
	return translateCertificate(c.k.trusted.Set(ctx, c.k.certificateNote(by), servercert.Brought{Chain: []byte(q.Chain), Key: []byte(q.Key), For: q.For}))
}

// Unset implements console.Certificates.
func (c certificates) Unset(ctx context.Context, by quarantine.Actor) error {
	return translateCertificate(c.k.trusted.Unset(ctx, c.k.certificateNote(by)))
}

// SetACME implements console.Certificates.
func (c certificates) SetACME(ctx context.Context, by quarantine.Actor, q api.CertificateACMESet) error {
	return translateCertificate(c.k.trusted.SetACME(ctx, c.k.certificateNote(by), servercert.ACMESettings{
		Directory: q.Directory, Contacts: q.Contacts, Names: q.Names, Agreed: q.Agreed, KeyID: q.KeyID, MAC: q.MAC, Roots: q.Roots, Key: q.Key, For: q.For,
	}))
}

// UnsetACME implements console.Certificates.
func (c certificates) UnsetACME(ctx context.Context, by quarantine.Actor) error {
	return translateCertificate(c.k.trusted.UnsetACME(ctx, c.k.certificateNote(by)))
}

// Renew implements console.Certificates.
func (c certificates) Renew(ctx context.Context, by quarantine.Actor) error {
	return translateCertificate(c.k.trusted.Renew(ctx, c.k.certificateNote(by)))
}

// Certificate implements console.Certificates.
func (c certificates) Certificate(ctx context.Context) (api.Certificate, error) {
	st := c.k.trusted.State(ctx)
	now := time.Now()
	out := api.Certificate{Names: append([]string{}, c.k.trusted.Names()...), Shown: showCertificate(servercert.Describe(servercert.Own, c.k.listener.Certificate()), now),
		Uncovered: st.Uncovered, Problem: st.Problem}
	if st.Certificate != nil {
		kept := showCertificate(*st.Certificate, now)
		out.Kept = &kept
		if st.Shown {
			out.Shown = kept
		}
	}
	for _, w := range st.Waiting {
		out.Requests = append(out.Requests, api.CertificateWaiting(w))
	}
	if a := st.ACME; a != nil {
		shown := api.CertificateACME(*a)
		out.ACME = &shown
	}
	return out, nil
}

func showCertificate(i servercert.Info, now time.Time) api.CertificateInfo {
	left := i.NotAfter.Sub(now)
	days := int(left / (24 * time.Hour))
	if left < 0 {
		days--
	}
	return api.CertificateInfo{Source: string(i.Source), Names: append([]string{}, i.Names...), Issuer: i.Issuer, NotBefore: i.NotBefore, NotAfter: i.NotAfter,
		DaysLeft: days, SHA256: hex.EncodeToString(i.Sum[:]), For: i.For, Set: i.Set, Renew: i.Renew}
}

// certificateHealth is what alerts look at.
func (k *control) certificateHealth(ctx context.Context) *alert.CertificateHealth {
	st := k.trusted.State(ctx)
	out := &alert.CertificateHealth{Broken: st.Problem, Uncovered: st.Uncovered}
	if c := st.Certificate; c != nil {
		out.Issuer, out.NotBefore, out.NotAfter = c.Issuer, c.NotBefore, c.NotAfter
	}
	if a := st.ACME; a != nil {
		out.ACME, out.Failures, out.Problem = a.Directory, a.Failures, a.Problem
	}
	return out
}
