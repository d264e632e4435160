package console

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"lazaret/quarantine"
)

// identity is who asks. The zero identity may do nothing.
type identity struct {
	actor  quarantine.Actor
	may    []Permission
	source string                 // the only source it may report as; empty: any (administrators)
	scope  []quarantine.Selection // each must select a device for it to exist for this identity
	until  time.Time              // when it ends; zero: never
	token  Token                  // the token it came with; zero: a certificate
	depth  int                    // of the token: one that a certificate made has 1; 0: no token
}

func (i identity) can(p Permission) bool { return slices.Contains(i.may, p) }

// bounded reports whether it may do what it may with a part of all devices or sources alone.
func (i identity) bounded() bool { return i.source != "" || len(i.scope) > 0 }

var (
	errUnauthenticated  = errors.New("who are you? send an administrator's client certificate or an API token")
	errDenied           = errors.New("this credential may not do that")
	errCrossSite        = errors.New("refused: another web site asked for this")
	errForbiddenNetwork = errors.New("the administration API is closed to this address")
)

// mostDepth is how far tokens may make tokens that make tokens.
const mostDepth = 8

// authenticate finds out who asks: a client certificate of the administrators' CA, or a
// bearer token. Anything else, and any error, is nobody.
func (s *Server) authenticate(r *http.Request) (identity, error) {
	if text, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer "); ok {
		sum := sha256.Sum256([]byte(text))
		if !s.attempts.allowed(r.RemoteAddr, sum) {
			s.attempts.count()
			return identity{}, errTooManyWrong
		}
		who, err := s.holder(r.Context(), sum)
		if errors.Is(err, errUnauthenticated) {
			s.attempts.wrong(r.RemoteAddr, sum)
		}
		if err != nil {
			return identity{}, err
		}
		s.attempts.right(sum)
		who.actor.Address = r.RemoteAddr
		s.used(r.Context(), sum)
		return who, nil
	}
	if r.TLS == nil || len(r.TLS.PeerCertificates) == 0 {
		return identity{}, errUnauthenticated
	}
	leaf := r.TLS.PeerCertificates[0]
	if err := s.cfg.Administrator(leaf, s.cfg.Now()); err != nil {
		s.attempts.count()
		return identity{}, errUnauthenticated
	}
	return identity{
		actor: quarantine.Actor{Kind: "administrator", Name: leaf.Subject.CommonName, Address: r.RemoteAddr},
		may:   scopes["administrator"], until: leaf.NotAfter,
	}, nil
}

// holder is who holds the token of that sum. A token counts as long as every token that it
// comes from does, and may do what each of them may: one that is gone or over takes along
// what it made, whatever became of their records.
func (s *Server) holder(ctx context.Context, sum [32]byte) (identity, error) {
	t, err := s.liveToken(ctx, sum)
	if err != nil {
		return identity{}, err
	}
	if t.Scope == "report" && t.Source == "" {
		return identity{}, errDenied // it would speak for every source
	}
	who := identity{
		actor: quarantine.Actor{Kind: "token", Name: t.Name}, may: t.permissions(),
		source: t.Source, scope: t.For, until: t.Expires, token: t, depth: 1,
	}
	for up := t; up.Parent != ([32]byte{}); who.depth++ {
		if who.depth >= mostDepth {
			return identity{}, fmt.Errorf("token %s comes from too many others: %w", t.Name, errUnauthenticated)
		}
		if up, err = s.liveToken(ctx, up.Parent); err != nil {
			return identity{}, err
		}
		who.may = slices.DeleteFunc(slices.Clone(who.may), func(p Permission) bool { return !slices.Contains(up.permissions(), p) })
	}
	return who, nil
}

// liveToken finds a token that is not over.
func (s *Server) liveToken(ctx context.Context, sum [32]byte) (Token, error) {
	t, err := s.cfg.Organization.TokenBySum(ctx, sum)
	if errors.Is(err, ErrNotFound) {
		return Token{}, errUnauthenticated
	}
	if err != nil {
		return Token{}, err
	}
	if t.Sum != sum || t.over(s.cfg.Now()) {
		return Token{}, errUnauthenticated
	}
	return t, nil
}

// NewToken draws a token: 160 random bits behind a prefix that scanners for leaked
// secrets can know it by.
func NewToken() string {
	var b [20]byte
	rand.Read(b[:])
	return "lzt_" + strings.ToLower(base32.StdEncoding.EncodeToString(b[:]))
}
