package api

// Policy is a policy set. A request may bring the text form in TOML instead of all other
// fields but Revision; an answer bears both.
type Policy struct {
	Name          string       `json:"name,omitempty"`
	Version       int64        `json:"version,omitempty"` // given by the gateway; grows with every save
	Text          string       `json:"text,omitempty"`
	Assigned      *bool        `json:"assigned,omitempty"` // it takes part in decisions; a request that leaves it out leaves it as it is
	STIG          bool         `json:"stig,omitempty"`
	AgentReleases bool         `json:"agent_releases,omitempty"`
	For           Selection    `json:"for,omitzero"`
	Rules         []PolicyRule `json:"rules,omitempty"`
	TOML          string       `json:"toml,omitempty"`
	Revision      int64        `json:"revision,omitempty"`
}

// Selection chooses devices; an empty list chooses any.
type Selection struct {
	Ownerships []string `json:"ownerships,omitempty"`
	Platforms  []string `json:"platforms,omitempty"`
	Profiles   []string `json:"profiles,omitempty"`
	Groups     []string `json:"groups,omitempty"`
}

// PolicyRule is one check of a policy set.
type PolicyRule struct {
	Name       string   `json:"name"`
	Text       string   `json:"text,omitempty"`
	Remedy     string   `json:"remedy,omitempty"`
	Expression string   `json:"expression"`
	CheckEvery string   `json:"check_every,omitempty"` // like "24h" or "30d"
	Grace      string   `json:"grace,omitempty"`
	OnFailure  string   `json:"on_failure,omitempty"` // report, quarantine (default), block or wipe
	Facts      []string `json:"facts,omitempty"`      // answers only: what the expression can look at
}

// PolicyFault is one thing wrong with a policy set. Line and column are those of the TOML
// text where that was sent, else of the field's value.
type PolicyFault struct {
	Rule   string `json:"rule,omitempty"`
	Field  string `json:"field,omitempty"`
	Line   int    `json:"line,omitempty"`
	Column int    `json:"column,omitempty"`
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"`
}

// PolicyChecked says what is wrong with a policy set, if anything.
type PolicyChecked struct {
	Good   bool          `json:"good"`
	Faults []PolicyFault `json:"faults"`
	Policy *Policy       `json:"policy,omitempty"` // as it was understood
}

// PolicyTry asks what would become of the devices: if a policy set (in TOML, or by the name
// of one that is kept) were assigned as it is, or without it, or in another mode.
type PolicyTry struct {
	TOML    string `json:"toml,omitempty"`
	Policy  string `json:"policy,omitempty"`
	Without bool   `json:"without,omitempty"` // as if that set were not assigned
	Strict  *bool  `json:"strict,omitempty"`  // as if strict mode were on, or off
	Limit   int    `json:"limit,omitempty"`   // of the devices listed; default 100
}

// PolicyTried is what would become of the devices.
type PolicyTried struct {
	Devices int           `json:"devices"` // judged
	Moves   int           `json:"moves"`   // would stand elsewhere
	Counts  []PolicyCount `json:"counts"`  // of those, most first
	Rules   []PolicyFails `json:"rules"`   // rules that would fail where they do not now
	Listed  []PolicyMove  `json:"listed"`  // devices that would move, by name, at most as many as asked for
}

// PolicyCount counts devices that would move alike.
type PolicyCount struct {
	From    string `json:"from"`
	To      string `json:"to"`
	Rule    string `json:"rule"` // that decides
	Devices int    `json:"devices"`
}

// PolicyFails counts devices of which a rule would fail that does not fail now, moving or not.
type PolicyFails struct {
	Rule    string `json:"rule"` // SET/RULE
	Devices int    `json:"devices"`
}

// PolicyMove is one device that would move.
type PolicyMove struct {
	Device string `json:"device"`
	Name   string `json:"name"`
	Owner  string `json:"owner,omitempty"`
	From   string `json:"from"`
	To     string `json:"to"`
	Rule   string `json:"rule"`
	Text   string `json:"text"`
	Order  string `json:"order,omitempty"` // block or wipe, if the rule would give one
}

// Fact is a name that rules can speak of.
type Fact struct {
	Name string `json:"name"`
	Type string `json:"type"`
	Text string `json:"text"`
	From string `json:"from"` // who can say it
}

// Conduct is how the organization treats its devices as a whole. Times are like "2h" or
// "90d"; empty ones in a request are the defaults.
type Conduct struct {
	Strict      bool   `json:"strict"`
	AlertAfter  string `json:"alert_after,omitempty"`
	ActAfter    string `json:"act_after,omitempty"`
	OnInactive  string `json:"on_inactive,omitempty"` // wipe (default), block or report
	SessionLife string `json:"session_life,omitempty"`
	Revision    int64  `json:"revision,omitempty"`
}
