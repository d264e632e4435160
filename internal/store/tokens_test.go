package store

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"lazaret/internal/store/enrolltest"
	"lazaret/quarantine"
)

// TestOldTokensMeanWhatTheyDid: a token that was kept before tokens had limits has none.
func TestOldTokensMeanWhatTheyDid(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	const text = "abababababababababababababababababababababababababababababababab"
	if _, err := s.client.Put(ctx, tokenPrefix+"old", `{"v":1,"value":{"sum":"`+text+`","scope":"admin","created":"2025-01-31T08:00:00Z","by":"ada"}}`); err != nil {
		t.Fatal(err)
	}
	want := Token{Name: "old", Scope: "admin", Created: time.Date(2025, 1, 31, 8, 0, 0, 0, time.UTC), By: "ada"}
	for i := range want.Sum {
		want.Sum[i] = 0xab
	}
	if _, err := s.client.Put(ctx, tokenSumKey(want.Sum), "old"); err != nil {
		t.Fatal(err)
	}
	got, err := s.TokenBySum(ctx, want.Sum)
	if d := cmp.Diff(want, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}

// TestTokenComesFromOneThatIsThere: what limits a token is kept, and nothing is made by a
// token that is gone, nor by another that took its name.
func TestTokenComesFromOneThatIsThere(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	up := Token{Name: "up", Sum: enrolltest.SPKI(1), Scope: "administrator", Created: enrolltest.OTP(1).Created}
	down := Token{Name: "down", Sum: enrolltest.SPKI(2), Scope: "operator", Created: up.Created, By: "up", Permissions: []string{"device.read"},
		For: []quarantine.Selection{{Platforms: []string{"linux"}}, {Groups: []string{"a", "b"}}}, Expires: up.Created.Add(time.Hour), Parent: up.Sum}
	if err := s.PutToken(ctx, admin, down); !errors.Is(err, ErrInvalid) {
		t.Errorf("made by none: %v, want ErrInvalid", err)
	}
	if err := s.PutToken(ctx, admin, up); err != nil {
		t.Fatal(err)
	}
	if err := s.PutToken(ctx, admin, down); err != nil {
		t.Fatal(err)
	}
	got, err := s.TokenBySum(ctx, down.Sum)
	if d := cmp.Diff(down, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
	if err := s.DeleteToken(ctx, admin, "up"); err != nil {
		t.Fatal(err)
	}
	namesake := up
	namesake.Sum = enrolltest.SPKI(3)
	if err := s.PutToken(ctx, admin, namesake); err != nil {
		t.Fatal(err)
	}
	down.Name, down.Sum = "late", enrolltest.SPKI(4)
	if err := s.PutToken(ctx, admin, down); !errors.Is(err, ErrInvalid) {
		t.Errorf("made by one that is gone, while another has its name: %v, want ErrInvalid", err)
	}
	none := up
	none.Name, none.Sum, none.Permissions = "none", enrolltest.SPKI(5), []string{}
	if err := s.PutToken(ctx, admin, none); !errors.Is(err, ErrInvalid) {
		t.Errorf("a list of no permissions, which would read as all: %v, want ErrInvalid", err)
	}
}

func TestTokenUses(t *testing.T) {
	t.Parallel()
	s, ctx := fresh(t), t.Context()
	uses, at := s.TokenUses(), time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	for _, n := range []int{1, 2} {
		if err := uses.Used(ctx, enrolltest.SPKI(n), at.Add(time.Duration(n)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Notes().Put(ctx, usePrefix+"no sum at all, and longer than one of those would be if it were one of them", []byte("x")); err != nil {
		t.Fatal(err)
	}
	if err := uses.Forget(ctx, enrolltest.SPKI(1)); err != nil {
		t.Fatal(err)
	}
	got, err := uses.LastUsed(ctx)
	if d := cmp.Diff(map[[32]byte]time.Time{enrolltest.SPKI(2): at.Add(2 * time.Hour)}, got); d != "" || err != nil {
		t.Errorf("%v (-want +got):\n%s", err, d)
	}
}
