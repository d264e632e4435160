package quarantine

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"
	"time"
)

// PolicySet is a set of rules that an administrator writes: what must be known of a device
// before it is released. Each rule of each assigned set that selects a device must hold.
// The zero PolicySet takes part in nothing.
type PolicySet struct {
	Name     string
	Version  int64  // grows with every save; given by the store
	Text     string // what it is for, for people
	Assigned bool   // it takes part in decisions; one that is not is a draft
	STIG     bool   // marked as such; the mark is checked when it is saved (G4)
	For      Selection

	// AgentReleases says that the device's own word is enough: where all rules hold and its
	// agent's report is live, it is released without a word of any other source.
	AgentReleases bool

	Rules []PolicyRule
}

// PolicyRule is one check.
type PolicyRule struct {
	Name       string // within its set
	Text       string // what must hold, one sentence
	Remedy     string // what the user is to do where it does not, one sentence
	Expression string // CEL, of type bool
	// CheckEvery is how old a fact may be that the rule rests on; zero: as old as the
	// validity of the report it came in.
	CheckEvery time.Duration
	// Grace is how long a device that is routed stays so while the rule fails; zero: not at all.
	Grace     time.Duration
	OnFailure FailureAction
}

// FailureAction is what follows from a rule that fails. The empty one is that of Quarantined.
// Block and wipe follow only from facts that are known and live: where one is missing, stale
// or unreadable, the device is quarantined instead.
type FailureAction string

const (
	FailReport     FailureAction = "report"     // told, and nothing else
	FailQuarantine FailureAction = "quarantine" // not released
	FailBlock      FailureAction = "block"      // blocked, until a person unblocks it
	FailWipe       FailureAction = "wipe"       // quarantined, and told to wipe what enrollment gave
)

// Selection chooses devices. An empty list chooses any; the zero Selection chooses all.
type Selection struct {
	Ownerships []string
	Platforms  []string
	Profiles   []string
	Groups     []string // one of them is enough
}

// Selects reports whether the selection chooses a device with that record and profile.
func (s Selection) Selects(r Record, p Profile) bool {
	in := func(list []string, value string) bool { return len(list) == 0 || slices.Contains(list, value) }
	if !in(s.Ownerships, r.Ownership) || !in(s.Platforms, r.Platform) || !in(s.Profiles, r.Profile) {
		return false
	}
	return len(s.Groups) == 0 || slices.ContainsFunc(GroupsOf(r, p), func(g string) bool { return slices.Contains(s.Groups, g) })
}

// GroupsOf are the groups of a device: those of its profile, where p is its profile, and its own.
func GroupsOf(r Record, p Profile) []string {
	groups := slices.Clone(r.Groups)
	if p.Name == r.Profile {
		groups = append(groups, p.Groups...)
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

// Conduct is how an organization treats its devices as a whole. The zero Conduct is the
// ordinary one.
type Conduct struct {
	// Strict lets only policy sets that are marked and valid as stig be assigned, holds a
	// device that no assigned set selects for not compliant, and caps sessions (G3 to G5).
	Strict bool
	// AlertAfter and ActAfter are how long a device may be silent until it is told of, and
	// until OnInactive is done (G10); zero: 21 and 90 days.
	AlertAfter, ActAfter time.Duration
	OnInactive           FailureAction // FailWipe or FailBlock; empty: wipe. FailReport: nothing but the alert
	// SessionLife is how long a user's sign-in opens a pool that asks for one; zero: 2 hours,
	// which is also the most in strict mode; 24 hours otherwise.
	SessionLife time.Duration
}

// UserSession is a user's sign-in that a pool may ask for (G3). The zero one is none.
type UserSession struct {
	User  string    `json:"user"`
	At    time.Time `json:"at"`    // of the authentication
	Until time.Time `json:"until"` // at most Conduct.SessionLife after At
	How   string    `json:"how,omitempty"`
	By    Actor     `json:"by"` // who vouches
}

// Ends is when the session ends under a conduct, which may be shorter than when it began.
func (s UserSession) Ends(c Conduct) time.Time {
	end := s.At.Add(c.Session())
	if s.Until.Before(end) {
		return s.Until
	}
	return end
}

// Waiver is a person's word that a violated rule is not to count for a while (N8). A Policy
// holds a rule that is waived, until Waiver.Until, for one that does not fail.
type Waiver struct {
	Decision
	Until time.Time `json:"until"`
	// Digest is PolicyRule.Digest of the rule that the person saw. A rule that was written anew
	// since is another one, though its name stays. Waivers from before there were digests have
	// none, and go by the name.
	Digest string `json:"digest,omitempty"`
}

// Waives reports whether the waiver is about a rule of that digest.
func (w Waiver) Waives(digest string) bool { return w.Digest == "" || w.Digest == digest }

// Digest tells the rule from others of its name: 32 hexadecimal digits of the SHA-256 of its
// expression.
func (r PolicyRule) Digest() string {
	sum := sha256.Sum256([]byte(r.Expression))
	return hex.EncodeToString(sum[:16])
}
