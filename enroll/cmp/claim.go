package cmp

// IDClaim is a UTF8String, Claim as JSON.
const IDClaim = private + "\x05"

// Claim is what a device says of itself when it enrolls; an OTP may want it to say
// one thing. It identifies and proves nothing. Versioned; carried as JSON in a private
// information type of ir, cr and p10cr.
type Claim struct {
	Version   int    `json:"v"` // 1
	Serial    string `json:"serial,omitempty"`
	Platform  string `json:"platform,omitempty"`  // "linux", "macos", "windows"
	Ownership string `json:"ownership,omitempty"` // "corporate", "personal"
}

// ClaimInfo builds the entry of c.
func ClaimInfo(c Claim) (Info, error) { return jsonInfo(IDClaim, c) }

// ReadClaim reads a Claim; false if there is none.
func ReadClaim(infos []Info) (Claim, bool, error) {
	var c Claim
	ok, err := readJSON(infos, IDClaim, "claim", &c)
	if !ok || err != nil {
		return Claim{}, ok, err
	}
	if err := knownVersion("claim", c.Version); err != nil {
		return Claim{}, true, err
	}
	return c, true, nil
}
