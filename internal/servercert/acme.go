package servercert

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"net/mail"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"lazaret/pki"
)

// ACMESettings say where certificates are asked for (RFC 8555).
type ACMESettings struct {
	Directory string   // https URL of the server's directory
	Contacts  []string // mail addresses; optional
	Names     []string // optional: those of the configuration
	Agreed    bool     // to the server's terms
	KeyID     string   // of the external account (section 7.3.4); optional
	MAC       string   // its key, base64url; required with KeyID, and kept secret
	Roots     string   // PEM: authorities of a private server; optional: the public ones
	Key       string   // one of KeyKinds
	For       []string // as in Brought
}

// ACMEState is how it goes.
type ACMEState struct {
	Directory string
	Contacts  []string
	Names     []string
	Agreed    bool
	KeyID     string
	Roots     bool // of its own
	Key       string
	Account   string // URL at the server; empty: none was made
	Failures  int    // in a row
	Problem   string // of the last attempt; empty: it went well
	Tried     time.Time
	Next      time.Time // not before
}

// account is the blob of what is set, and of how far that came. It is never changed once it
// is published.
type account struct {
	Version  int          `json:"v"` // 1
	Settings ACMESettings `json:"settings"`
	Key      []byte       `json:"key"` // of the account, PKCS#8
	URL      string       `json:"url,omitempty"`
	Failures int          `json:"failures,omitempty"`
	Problem  string       `json:"problem,omitempty"`
	Tried    time.Time    `json:"tried,omitzero"`
	Next     time.Time    `json:"next,omitzero"`
	Forced   bool         `json:"forced,omitempty"` // a person asks, whatever the certificate's life is
}

// asks says whether it is the same certificate of the same server that settings ask for.
func (a *account) asks(s ACMESettings) bool {
	is := a.Settings
	return is.Directory == s.Directory && is.KeyID == s.KeyID && is.MAC == s.MAC && is.Roots == s.Roots && is.Key == s.Key && slices.Equal(is.Names, s.Names)
}

func (a *account) state() *ACMEState {
	s := a.Settings
	return &ACMEState{Directory: s.Directory, Contacts: s.Contacts, Names: s.Names, Agreed: s.Agreed, KeyID: s.KeyID, Roots: s.Roots != "", Key: s.Key,
		Account: a.URL, Failures: a.Failures, Problem: a.Problem, Tried: a.Tried, Next: a.Next}
}

// Bounds of settings.
const (
	mostContacts = 10
	maxURL       = 2 << 10
	maxMAC       = 1 << 10
)

// check returns all that is wrong, as *Faults.
func (s ACMESettings) check() error {
	var f Faults
	u, err := url.Parse(s.Directory)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(s.Directory) > maxURL {
		f.add("the directory %.120q is no https URL", "give the address that the authority names, like https://acme.example.com/directory", s.Directory)
	}
	if len(s.Contacts) > mostContacts {
		f.add("there are more than %d contacts", "give one or two", mostContacts)
	}
	for _, c := range s.Contacts {
		if a, err := mail.ParseAddress(c); err != nil || a.Address != c {
			f.add("contact %.80q is no mail address", "write it like hostmaster@example.com", c)
		}
	}
	if !s.Agreed {
		f.add("the server's terms are not agreed to", "read them, and say so with --agree-terms")
	}
	if mac, err := decodeMAC(s.MAC); (s.KeyID == "") != (s.MAC == "") || err != nil || len(s.MAC) > maxMAC || len(s.KeyID) > maxMAC || s.KeyID != "" && len(mac) < 16 {
		f.add("the external account's key id and key do not belong together", "give both as the authority gave them, the key in base64url, or neither")
	}
	if len(s.Roots) > MaxText {
		f.add("the file of the server's authorities has more than %d KiB", "give those of this server alone", MaxText>>10)
	} else if s.Roots != "" {
		if _, err := parsePool(s.Roots); err != nil {
			f.add("the file of the server's authorities holds no certificate that can be used: %v", "give it as PEM", err)
		}
	}
	if s.Key != "" && !slices.Contains(KeyKinds, s.Key) {
		f.add("key %.20q is none of %v", "choose one of them", s.Key, KeyKinds)
	}
	return f.err()
}

// decodeMAC reads base64url with padding or without: authorities give both.
func decodeMAC(s string) ([]byte, error) {
	return base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
}

// SetACME gets certificates by ACME from now on, and asks for the first at once. What is
// shown stays until that has come. The MAC may be left out where directory and key id stay.
// What is set again as it was is asked for no sooner: that is Renew's.
func (k *Keeper) SetACME(ctx context.Context, note Note, s ACMESettings) error {
	k.changes.Lock()
	defer k.changes.Unlock()
	if k.reload(ctx); k.noACME.Load().passing() {
		return k.noACME.Load().err // its account would be lost
	}
	was := k.acme.Load()
	same := was != nil && was.Settings.Directory == s.Directory && was.Settings.KeyID == s.KeyID && was.Settings.Roots == s.Roots
	if same && s.MAC == "" {
		s.MAC = was.Settings.MAC
	}
	err := s.check()
	names, bad := k.wanted(s.Names)
	if err = joinFaults(err, bad); err != nil {
		return err
	}
	for _, n := range lower(s.For) {
		if !slices.Contains(names, n) {
			return invalid("leave that name out", "it is to be shown for %.80q, which is not among its names", n)
		}
	}
	s.Names, s.For = lower(s.Names), lower(s.For)
	next := account{Version: 1, Settings: s, Forced: !same}
	if was != nil {
		next.pauses(was, k.now())
	}
	if same {
		next.Key, next.URL, next.Forced = was.Key, was.URL, was.Forced
	} else {
		key, err := pki.GenerateKey()
		if err != nil {
			return err
		}
		if next.Key, err = pki.MarshalKey(key); err != nil {
			return err
		}
	}
	if err := note(ctx, "certificate.acme.set", map[string]string{"directory": s.Directory, "names": clip(strings.Join(names, " ")), "eab_kid": s.KeyID}); err != nil {
		return err
	}
	if err := k.showFor(ctx, s.For); err != nil {
		return err
	}
	if err := k.put(ctx, blobACME, next); err != nil {
		return err
	}
	k.acme.Store(&next)
	k.noACME.Store(nil)
	k.wake()
	return nil
}

// pauses takes over how it went before: the same is not asked for any sooner because it is
// set again, and other things a minute after the last attempt at the earliest.
func (a *account) pauses(was *account, now time.Time) {
	a.Tried = was.Tried
	if was.asks(a.Settings) {
		a.Next, a.Failures, a.Problem = was.Next, was.Failures, was.Problem
	} else if !was.Tried.IsZero() && !was.Tried.After(now) {
		a.Next = was.Tried.Add(sooner)
	}
}

// showFor changes the names that a certificate obtained by ACME is shown for.
func (k *Keeper) showFor(ctx context.Context, names []string) error {
	s := k.shown.Load()
	if s == nil || s.saved.Source != ACME || slices.Equal(s.saved.For, names) {
		return nil
	}
	next := *s
	next.saved.For = names
	if err := k.put(ctx, blobShown, next.saved); err != nil {
		return err
	}
	k.shown.Store(&next)
	return nil
}

// UnsetACME asks for no certificate any more. What is shown stays until it ends.
func (k *Keeper) UnsetACME(ctx context.Context, note Note) error {
	k.changes.Lock()
	defer k.changes.Unlock()
	if k.acme.Load() == nil && k.noACME.Load() == nil {
		return ErrNoACME
	}
	if err := note(ctx, "certificate.acme.unset", nil); err != nil {
		return err
	}
	if err := k.config.Store.Delete(ctx, blobACME); err != nil {
		return err
	}
	k.acme.Store(nil)
	k.noACME.Store(nil)
	return nil
}

// sooner is how long after an attempt a person may ask for the next.
const sooner = time.Minute

// Renew asks for a certificate now. ErrNoACME without ACME, ErrSoon while an attempt runs and a
// moment after.
func (k *Keeper) Renew(ctx context.Context, note Note) error {
	k.changes.Lock()
	defer k.changes.Unlock()
	k.reload(ctx)
	a := k.acme.Load()
	if a == nil {
		return ErrNoACME
	}
	if since := k.now().Sub(a.Tried); k.asking.Load() || since >= 0 && since < sooner {
		return ErrSoon
	}
	if err := note(ctx, "certificate.renew", nil); err != nil {
		return err
	}
	next := *a
	next.Next, next.Forced = time.Time{}, true
	if err := k.put(ctx, blobACME, next); err != nil {
		return err
	}
	k.acme.Store(&next)
	k.wake()
	return nil
}

func (k *Keeper) wake() {
	select {
	case k.kick <- struct{}{}:
	default:
	}
}

// proofs are the certificates that answer an ACME server's challenges, by name (RFC 8737).
type proofs struct {
	mu sync.Mutex
	by map[string]*tls.Certificate
}

func (p *proofs) of(name string) *tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.by[strings.ToLower(name)]
}

func (p *proofs) set(name string, cert *tls.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if cert == nil {
		delete(p.by, name)
		return
	}
	if p.by == nil {
		p.by = map[string]*tls.Certificate{}
	}
	p.by[name] = cert
}
