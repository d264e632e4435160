package console

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"time"

	"lazaret/internal/console/api"
	"lazaret/quarantine"
)

// createToken makes a token that lacks nothing its creator lacks (D4): of its permissions,
// for its devices, for its source, and not for longer.
func (s *Server) createToken(w http.ResponseWriter, r *http.Request, who identity) error {
	var q api.TokenRequest
	if err := read(r, &q); err != nil {
		return err
	}
	secret := NewToken()
	t, err := s.grant(r.Context(), who, q)
	if err != nil {
		return err
	}
	t.Sum = sha256.Sum256([]byte(secret))
	tree, err := s.tokenTree(r.Context())
	if err != nil {
		return err
	}
	if err := s.pruneTokens(r.Context(), tree); err != nil {
		return err
	}
	if _, err := s.cfg.Organization.Tokens.Put(r.Context(), who.actor, Item[Token]{Name: q.Name, Value: t}); err != nil {
		return fmt.Errorf("saving token %s: %w", q.Name, err)
	}
	tree.bySum[t.Sum] = t
	shown := tree.show(t)
	shown.Secret = secret
	reply(w, http.StatusCreated, shown)
	return nil
}

// grant is the token that the one who asks may make of a request, without its sum.
func (s *Server) grant(ctx context.Context, who identity, q api.TokenRequest) (Token, error) {
	if err := checkName("token", q.Name, ""); err != nil {
		return Token{}, err
	}
	if who.depth >= mostDepth {
		return Token{}, fmt.Errorf("tokens are made %d deep and no deeper: %w", mostDepth, errDenied)
	}
	t := Token{Name: q.Name, Scope: q.Scope, Created: s.cfg.Now().UTC(), By: who.actor.Name, Parent: who.token.Sum}
	var err error
	if t.Permissions, err = grantPermissions(who, q); err != nil {
		return t, err
	}
	if t.For, err = grantScope(who, q.For); err != nil {
		return t, err
	}
	if t.Source, err = s.grantSource(ctx, who, q, t.permissions()); err != nil {
		return t, err
	}
	t.Expires, err = s.grantLife(ctx, who, q, t)
	return t, err
}

// grantPermissions are those that the token gets; nil: those of its role, whatever the role
// comes to have in a later version.
func grantPermissions(who identity, q api.TokenRequest) ([]string, error) {
	role, ok := scopes[q.Scope]
	if !ok {
		return nil, bad("name a role: lazaretctl token roles", "scope is %.40q", q.Scope)
	}
	asked := role
	if len(q.Permissions) > 0 {
		asked = nil
		for _, text := range q.Permissions {
			if !slices.Contains(role, Permission(text)) {
				return nil, bad("name some of the role's: lazaretctl token roles", "%.40q is no permission of role %s", text, q.Scope)
			}
			asked = append(asked, Permission(text))
		}
	}
	for _, p := range asked {
		if !who.can(p) {
			return nil, fmt.Errorf("granting %s: %w", p, errDenied)
		}
	}
	if len(q.Permissions) == 0 {
		return nil, nil
	}
	var out []string
	for _, p := range permissions { // in one order, each once
		if slices.Contains(asked, p.name) {
			out = append(out, string(p.name))
		}
	}
	return out, nil
}

const (
	mostSelected = 64 // names in a list of a selection
	longestName  = 64
)

// grantScope adds a selection to those of the creator, all of which must select a device.
func grantScope(who identity, q api.Selection) ([]quarantine.Selection, error) {
	sel := quarantine.Selection(q)
	none := true
	for _, list := range [][]string{sel.Ownerships, sel.Platforms, sel.Profiles, sel.Groups} {
		if len(list) > mostSelected {
			return nil, bad(fmt.Sprintf("name %d at most", mostSelected), "a list of \"for\" has %d names", len(list))
		}
		for _, name := range list {
			if name == "" || len(name) > longestName {
				return nil, bad("use names of 1 to 64 bytes", "\"for\" names %.70q", name)
			}
		}
		none = none && len(list) == 0
	}
	out := slices.Clone(who.scope)
	same := func(o quarantine.Selection) bool {
		return slices.Equal(o.Ownerships, sel.Ownerships) && slices.Equal(o.Platforms, sel.Platforms) && slices.Equal(o.Profiles, sel.Profiles) && slices.Equal(o.Groups, sel.Groups)
	}
	if none || slices.ContainsFunc(out, same) {
		return out, nil
	}
	return append(out, sel), nil
}

// grantSource ties role and source: a token that has one speaks for exactly one that exists,
// and what a token with a source makes has the same.
func (s *Server) grantSource(ctx context.Context, who identity, q api.TokenRequest, may []Permission) (string, error) {
	if who.source != "" {
		if q.Source != "" && q.Source != who.source {
			return "", fmt.Errorf("granting reports of source %.64q: %w", q.Source, errDenied)
		}
		return who.source, nil
	}
	if q.Source == "" && q.Scope != "report" {
		return "", nil
	}
	if !slices.Contains(may, WriteReports) {
		return "", bad("leave the source out", "a token that may not do %s reports as nobody", WriteReports)
	}
	_, known, err := s.findSource(ctx, q.Source)
	if err != nil {
		return "", err
	}
	if !known {
		return "", bad("create it first: lazaretctl source set NAME", "there is no source %.64q", q.Source)
	}
	return q.Source, nil
}

// grantLife is when the token ends: no later than its creator. One that an administrator
// makes for a source alone belongs to that source, and ends when it is deleted.
func (s *Server) grantLife(ctx context.Context, who identity, q api.TokenRequest, t Token) (time.Time, error) {
	life, err := span("life", q.Life)
	if err != nil {
		return time.Time{}, err
	}
	end, why := who.until, "its creator ends"
	account := who.depth == 0 && t.Source != "" && slices.Equal(t.permissions(), []Permission{WriteReports})
	if account {
		end = time.Time{}
	}
	strict, err := s.strict(ctx)
	if err != nil {
		return time.Time{}, err
	}
	if most := t.Created.Add(strictLife); strict && (end.IsZero() || most.Before(end)) {
		end, why = most, "strict mode lets tokens live 30 days"
	}
	if life > 0 {
		asked := t.Created.Add(life)
		if !end.IsZero() && asked.After(end) {
			return time.Time{}, bad("ask for less, or leave it out", "the token cannot live for %s: %s, on %s", q.Life, why, end.UTC().Format("2006-01-02"))
		}
		return asked, nil
	}
	if usual := t.Created.Add(usualLife); !account && (end.IsZero() || usual.Before(end)) {
		end = usual
	}
	return end.UTC(), nil
}

// strict reports whether the organization's conduct is.
func (s *Server) strict(ctx context.Context) (bool, error) {
	if s.cfg.Policies.Conducts == nil {
		return false, nil
	}
	it, err := s.cfg.Policies.Conducts.Conduct(ctx)
	if err != nil {
		return false, fmt.Errorf("reading the conduct: %w", err)
	}
	return it.Value.Strict, nil
}
