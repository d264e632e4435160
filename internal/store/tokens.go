package store

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"lazaret/quarantine"
)

// Token is an API token; of its text only the SHA-256 is kept.
type Token struct {
	Name    string
	Sum     [32]byte
	Scope   string // what it may do; empty: nothing
	Source  string // the source it speaks for, if only one
	Created time.Time
	By      string

	Permissions []string               // of the scope's; nil: all of them
	For         []quarantine.Selection // each must select a device
	Expires     time.Time              // zero: never
	Parent      [32]byte               // sum of the token that made it; zero: none
}

// storedToken is a Token at rest. What later versions added is left out where it says nothing,
// so that a token of before reads as what it was.
type storedToken struct {
	Sum         sum                    `json:"sum"`
	Scope       string                 `json:"scope"`
	Source      string                 `json:"source,omitempty"`
	Created     time.Time              `json:"created"`
	By          string                 `json:"by,omitempty"`
	Permissions []string               `json:"permissions,omitempty"`
	For         []quarantine.Selection `json:"for,omitempty"`
	Expires     time.Time              `json:"expires,omitzero"`
	Parent      sum                    `json:"parent,omitzero"`
}

func (s *Store) tokenTable() *Table[storedToken] {
	return &Table[storedToken]{s: s, noun: "token", prefix: tokenPrefix,
		put: func(ctx context.Context, _, it *Item[storedToken], ch *change) error {
			key := tokenSumKey(it.Value.Sum)
			ch.require(absent(key))
			ch.put(key, it.Name)
			if it.Value.Parent == (sum{}) {
				return nil
			}
			up, err := s.get(ctx, tokenSumKey(it.Value.Parent))
			if err != nil {
				return err
			}
			if up == nil {
				return fmt.Errorf("the token that makes it is gone: %w", ErrInvalid)
			}
			ch.require(unchanged(string(up.Key), up.ModRevision))
			return nil
		},
		drop: func(_ context.Context, old Item[storedToken], ch *change) error {
			ch.delete(tokenSumKey(old.Value.Sum))
			return nil
		},
		describe: describeToken,
	}
}

// describeToken is what the audit log tells of a new token: all but its sums.
func describeToken(t storedToken) map[string]string {
	out := map[string]string{"scope": t.Scope, "source": t.Source}
	if t.Permissions != nil {
		out["permissions"] = strings.Join(t.Permissions, " ")
	}
	if len(t.For) > 0 {
		out["for"] = mustJSON(t.For)
	}
	if !t.Expires.IsZero() {
		out["expires"] = t.Expires.UTC().Format(time.RFC3339)
	}
	return out
}

// PutToken keeps a new token; enroll.ErrExists if the name is taken, ErrInvalid if the token
// that makes it is gone.
func (s *Store) PutToken(ctx context.Context, by quarantine.Actor, t Token) error {
	if t.Sum == ([32]byte{}) {
		return fmt.Errorf("saving token %q: no sum: %w", t.Name, ErrInvalid)
	}
	v := storedToken{Sum: t.Sum, Scope: t.Scope, Source: t.Source, Created: t.Created, By: t.By, Permissions: t.Permissions, For: t.For, Expires: t.Expires, Parent: t.Parent}
	if t.Permissions != nil && len(t.Permissions) == 0 {
		return fmt.Errorf("saving token %q: no permissions: %w", t.Name, ErrInvalid) // at rest that would be all of them
	}
	_, err := s.tokenTable().Put(ctx, by, Item[storedToken]{Name: t.Name, Value: v})
	return err
}

// DeleteToken removes a token; ErrNotFound. It is refused from the next request on.
func (s *Store) DeleteToken(ctx context.Context, by quarantine.Actor, name string) error {
	return s.tokenTable().Delete(ctx, by, name, Any)
}

// Tokens lists all tokens, by name.
func (s *Store) Tokens(ctx context.Context) ([]Token, error) {
	items, err := s.tokenTable().List(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]Token, len(items))
	for i, it := range items {
		out[i] = token(it)
	}
	return out, nil
}

// TokenBySum finds a token by the SHA-256 of its text, or ErrNotFound.
func (s *Store) TokenBySum(ctx context.Context, sum [32]byte) (Token, error) {
	kv, err := s.get(ctx, tokenSumKey(sum))
	if err != nil {
		return Token{}, fmt.Errorf("finding token: %w", err)
	}
	if kv == nil {
		return Token{}, fmt.Errorf("finding token: %w", ErrNotFound)
	}
	it, err := s.tokenTable().Get(ctx, string(kv.Value))
	if err != nil {
		return Token{}, err
	}
	if t := token(it); t.Sum == sum {
		return t, nil
	}
	return Token{}, fmt.Errorf("finding token: %w", ErrNotFound)
}

func token(it Item[storedToken]) Token {
	v := it.Value
	return Token{Name: it.Name, Sum: v.Sum, Scope: v.Scope, Source: v.Source, Created: v.Created, By: v.By, Permissions: v.Permissions, For: v.For, Expires: v.Expires, Parent: v.Parent}
}

// usePrefix is where the gateway notes when tokens were last used.
const usePrefix = "token-use/"

// TokenUses keeps when tokens were last used, among the notes.
type TokenUses struct{ notes Notes }

// TokenUses returns when tokens were last used.
func (s *Store) TokenUses() TokenUses { return TokenUses{s.Notes()} }

// Used notes that a token was used.
func (u TokenUses) Used(ctx context.Context, sum [32]byte, at time.Time) error {
	return u.notes.Put(ctx, useName(sum), []byte(at.UTC().Format(time.RFC3339)))
}

// LastUsed is when each token was last used, by its sum. A note that cannot be read is none.
func (u TokenUses) LastUsed(ctx context.Context) (map[[32]byte]time.Time, error) {
	notes, err := u.notes.List(ctx, usePrefix)
	if err != nil {
		return nil, err
	}
	out := make(map[[32]byte]time.Time, len(notes))
	for name, text := range notes {
		at, err := time.Parse(time.RFC3339, string(text))
		sum, e := hex.DecodeString(strings.TrimPrefix(name, usePrefix))
		if err == nil && e == nil && len(sum) == 32 {
			out[[32]byte(sum)] = at
		}
	}
	return out, nil
}

// Forget drops the notes on tokens.
func (u TokenUses) Forget(ctx context.Context, sums ...[32]byte) error {
	names := make([]string, len(sums))
	for i, sum := range sums {
		names[i] = useName(sum)
	}
	return u.notes.Delete(ctx, names...)
}

func useName(sum [32]byte) string { return usePrefix + hex.EncodeToString(sum[:]) }
