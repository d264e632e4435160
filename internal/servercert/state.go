package servercert

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"strings"
	"time"
)

// Info is a certificate as it is told.
type Info struct {
	Source    Source
	Names     []string
	Issuer    string
	NotBefore time.Time // of it and its issuers, together
	NotAfter  time.Time
	Sum       [32]byte // SHA-256 of the certificate
	For       []string // names it is shown for; none: all that it bears
	Set       time.Time
	Renew     time.Time // by ACME, from then on
}

// Waiting is a key whose certificate has not come.
type Waiting struct {
	Names []string
	At    time.Time
}

// State is what there is.
type State struct {
	Certificate *Info // brought or obtained; nil: none
	Shown       bool  // it is shown: it is valid now
	Uncovered   []string
	Waiting     []Waiting
	ACME        *ACMEState
	Problem     string // what is kept and cannot be read, and what to do; empty: all can
}

// State tells all but keys, and of what cannot be read that it cannot.
func (k *Keeper) State(ctx context.Context) State {
	var out State
	now := k.config.Now()
	if s := k.shown.Load(); s != nil {
		leaf := s.leaf()
		i := Describe(s.saved.Source, leaf)
		i.NotBefore, i.NotAfter = s.begin, s.end
		i.For, i.Set, i.Renew = s.saved.For, s.saved.At, s.saved.Renew
		out.Certificate = &i
		out.Shown = s.goodAt(now)
		for _, n := range k.config.Names {
			if leaf.VerifyHostname(n) != nil {
				out.Uncovered = append(out.Uncovered, n)
			}
		}
	}
	if a := k.acme.Load(); a != nil {
		out.ACME = a.state()
		if k.asking.Load() && a.Problem == unfinished {
			out.ACME.Problem = ""
		}
	}
	var problems []string
	if f := k.noShown.Load(); f != nil {
		problems = append(problems, f.say("set it again: lazaretctl certificate set, or certificate renew"))
	}
	if f := k.noACME.Load(); f != nil {
		problems = append(problems, f.say("forget it: lazaretctl certificate acme unset, and set it again"))
	}
	waiting, err := k.requests(ctx)
	if err != nil {
		problems = append(problems, (&fault{err}).say("ask for a certificate anew: lazaretctl certificate csr"))
	}
	out.Problem = strings.Join(problems, "; ")
	for _, r := range waiting.Requests {
		out.Waiting = append(out.Waiting, Waiting{Names: r.Names, At: r.At})
	}
	return out
}

// Describe tells of a certificate what stands in it.
func Describe(from Source, c *x509.Certificate) Info {
	return Info{Source: from, Names: namesOf(c), Issuer: c.Issuer.String(), NotBefore: c.NotBefore, NotAfter: c.NotAfter, Sum: sha256.Sum256(c.Raw)}
}

// Names are those that a certificate has to cover.
func (k *Keeper) Names() []string { return k.config.Names }

func namesOf(c *x509.Certificate) []string {
	out := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		out = append(out, ip.String())
	}
	return out
}
