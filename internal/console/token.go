package console

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// Token is an API token as kept: the SHA-256 of its text, never the text.
type Token struct {
	Name    string
	Sum     [32]byte
	Scope   string // a role
	Source  string // the source it speaks for, if only one
	Created time.Time
	By      string

	Permissions []string               // of the role's; nil: all of them
	For         []quarantine.Selection // each must select a device
	Expires     time.Time              // zero: never
	Parent      [32]byte               // sum of the token that made it; zero: an administrator's certificate did
}

// permissions are what it may do by its own record.
func (t Token) permissions() []Permission {
	role := scopes[t.Scope]
	if t.Permissions == nil {
		return role
	}
	return slices.DeleteFunc(slices.Clone(role), func(p Permission) bool { return !slices.Contains(t.Permissions, string(p)) })
}

func (t Token) over(now time.Time) bool { return !t.Expires.IsZero() && !now.Before(t.Expires) }

const (
	day         = 24 * time.Hour
	usualLife   = 365 * day // of a token that does not speak for a source
	strictLife  = 30 * day  // in strict mode, of any
	listedAfter = 30 * day  // how long a token that is over is still listed
)

// TokenUses keeps when tokens were last used, by their sums.
type TokenUses interface {
	Used(ctx context.Context, sum [32]byte, at time.Time) error
	LastUsed(ctx context.Context) (map[[32]byte]time.Time, error)
	Forget(ctx context.Context, sums ...[32]byte) error
}

// hours are the hours in which tokens were last used, so that each is written once.
type hours struct {
	mu   sync.Mutex
	each map[[32]byte]time.Time
}

// used notes that a token was used, to the hour. It is no reason to refuse a request.
func (s *Server) used(ctx context.Context, sum [32]byte) {
	if s.cfg.Organization.Uses == nil {
		return
	}
	hour := s.cfg.Now().UTC().Truncate(time.Hour)
	s.hours.mu.Lock()
	known := s.hours.each[sum].Equal(hour)
	if !known {
		if s.hours.each == nil || len(s.hours.each) >= attemptKeys {
			s.hours.each = map[[32]byte]time.Time{}
		}
		s.hours.each[sum] = hour
	}
	s.hours.mu.Unlock()
	if known {
		return
	}
	if err := s.cfg.Organization.Uses.Used(ctx, sum, hour); err != nil && ctx.Err() == nil {
		s.cfg.Log.Error("noting the use of a token", "err", err)
	}
}

// tokenTree is all tokens, and what comes of what.
type tokenTree struct {
	bySum    map[[32]byte]Token
	children map[[32]byte][]Token
	last     map[[32]byte]time.Time
	now      time.Time
}

func (s *Server) tokenTree(ctx context.Context) (tokenTree, error) {
	t := tokenTree{bySum: map[[32]byte]Token{}, children: map[[32]byte][]Token{}, now: s.cfg.Now()}
	all, err := s.cfg.Organization.Tokens.List(ctx)
	if err != nil {
		return t, err
	}
	for _, it := range all {
		v := it.Value
		v.Name = it.Name
		t.bySum[v.Sum] = v
		if v.Parent != ([32]byte{}) {
			t.children[v.Parent] = append(t.children[v.Parent], v)
		}
	}
	if s.cfg.Organization.Uses != nil {
		t.last, err = s.cfg.Organization.Uses.LastUsed(ctx)
	}
	return t, err
}

// descendants are the tokens that come of one, nearest first. It is not one of them.
func (t tokenTree) descendants(sum [32]byte) []Token {
	var out []Token
	seen := map[[32]byte]bool{sum: true}
	for next := [][32]byte{sum}; len(next) > 0; next = next[1:] {
		for _, c := range t.children[next[0]] {
			if !seen[c.Sum] {
				seen[c.Sum], out, next = true, append(out, c), append(next, c.Sum)
			}
		}
	}
	return out
}

// named returns the token of a name, if the one who asks may know of it: one that is bounded
// knows itself and what came of it.
func (t tokenTree) named(who identity, name string) (Token, error) {
	for _, v := range t.visible(who) {
		if v.Name == name {
			return v, nil
		}
	}
	return Token{}, fmt.Errorf("token %.64q: %w", name, ErrNotFound)
}

// visible are the tokens that one who asks may know of, by name.
func (t tokenTree) visible(who identity) []Token {
	all := slices.Collect(maps.Values(t.bySum))
	if who.bounded() {
		all = append(t.descendants(who.token.Sum), who.token)
	}
	slices.SortFunc(all, func(a, b Token) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// state says whether a token counts, as holder does.
func (t tokenTree) state(v Token) string {
	if v.over(t.now) {
		return "expired"
	}
	for depth := 1; v.Parent != ([32]byte{}); depth++ {
		up, ok := t.bySum[v.Parent]
		if !ok || up.over(t.now) || depth >= mostDepth {
			return "orphaned"
		}
		v = up
	}
	return "live"
}

func (t tokenTree) show(v Token) api.Token {
	out := api.Token{Name: v.Name, Scope: v.Scope, Source: v.Source, Created: v.Created, By: v.By, Parent: t.bySum[v.Parent].Name,
		Expires: v.Expires, Used: t.last[v.Sum], State: t.state(v), Permissions: []string{}, Descendants: []string{}}
	for _, p := range v.permissions() {
		out.Permissions = append(out.Permissions, string(p))
	}
	for _, f := range v.For {
		out.For = append(out.For, api.Selection(f))
	}
	for _, d := range t.descendants(v.Sum) {
		out.Descendants = append(out.Descendants, d.Name)
	}
	return out
}

func (s *Server) listTokens(w http.ResponseWriter, r *http.Request, who identity) error {
	tree, err := s.tokenTree(r.Context())
	if err != nil {
		return err
	}
	out := []api.Token{}
	for _, v := range tree.visible(who) {
		if !v.over(tree.now.Add(-listedAfter)) {
			out = append(out, tree.show(v))
		}
	}
	reply(w, http.StatusOK, out)
	return nil
}

func (s *Server) showToken(w http.ResponseWriter, r *http.Request, who identity) error {
	tree, err := s.tokenTree(r.Context())
	if err != nil {
		return err
	}
	v, err := tree.named(who, r.PathValue("name"))
	if err != nil {
		return err
	}
	reply(w, http.StatusOK, tree.show(v))
	return nil
}

// deleteToken deletes a token and what came of it, and says what that was. From the moment
// that the first is gone all are refused, whatever becomes of the request.
func (s *Server) deleteToken(w http.ResponseWriter, r *http.Request, who identity) error {
	tree, err := s.tokenTree(r.Context())
	if err != nil {
		return err
	}
	v, err := tree.named(who, r.PathValue("name"))
	if err != nil {
		return err
	}
	if err := mayDelete(who, tree, v); err != nil {
		return err
	}
	gone, sums := []string{}, [][32]byte{}
	for left := append([]Token{v}, tree.descendants(v.Sum)...); len(left) > 0; {
		for _, one := range left {
			err := s.dropToken(r.Context(), who.actor, one)
			if errors.Is(err, ErrNotFound) && len(gone) > 0 {
				continue // somebody else was quicker
			}
			if err != nil {
				return fmt.Errorf("deleting token %s: %w", one.Name, err)
			}
			gone, sums = append(gone, one.Name), append(sums, one.Sum)
		}
		if tree, err = s.tokenTree(r.Context()); err != nil {
			return err
		}
		left = nil
		for _, sum := range sums { // what was made meanwhile
			left = append(left, tree.descendants(sum)...)
		}
	}
	reply(w, http.StatusOK, api.TokensDeleted{Deleted: gone})
	return nil
}

// mayDelete refuses to take a token away from others to whoever lacks what it may do.
func mayDelete(who identity, tree tokenTree, v Token) error {
	if who.depth > 0 && (v.Sum == who.token.Sum || slices.ContainsFunc(tree.descendants(who.token.Sum), func(d Token) bool { return d.Sum == v.Sum })) {
		return nil
	}
	for _, p := range v.permissions() {
		if !who.can(p) {
			return fmt.Errorf("deleting a token that has %s: %w", p, errDenied)
		}
	}
	return nil
}

func (s *Server) dropToken(ctx context.Context, by quarantine.Actor, t Token) error {
	if err := s.cfg.Organization.Tokens.Delete(ctx, by, t.Name, 0); err != nil {
		return err
	}
	if s.cfg.Organization.Uses != nil {
		if err := s.cfg.Organization.Uses.Forget(ctx, t.Sum); err != nil {
			s.cfg.Log.Error("forgetting the use of a token", "token", t.Name, "err", err)
		}
	}
	return nil
}

// pruneTokens deletes what has long been over.
func (s *Server) pruneTokens(ctx context.Context, tree tokenTree) error {
	for _, v := range tree.bySum {
		if !v.over(tree.now.Add(-listedAfter)) {
			continue
		}
		err := s.dropToken(ctx, quarantine.Actor{Kind: "gateway", Name: s.cfg.Gateway}, v)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return fmt.Errorf("deleting token %s, which is over: %w", v.Name, err)
		}
	}
	return nil
}
