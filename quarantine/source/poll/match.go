package poll

import (
	"fmt"
	"strings"

	"lazaret/quarantine"
)

// Match is by what a product's hosts and our devices are the same.
type Match string

const (
	// MatchSerial is by hardware serial number: the device's is the one that its one-time
	// password named.
	MatchSerial Match = "serial"
	// MatchName is by the computer's name and the name chosen at enrollment. Whoever may
	// name a computer can take another's name: it is for fleets whose names are managed.
	MatchName Match = "name"
)

// ParseMatch reads a Match. An owner is refused by its reason: one has several devices.
func ParseMatch(text string) (Match, error) {
	switch m := Match(text); m {
	case "":
		return MatchSerial, nil
	case MatchSerial, MatchName:
		return m, nil
	case "email", "mail", "owner", "user":
		return "", fmt.Errorf("%q names a person, who may have several devices: write serial or name", text)
	default:
		return "", fmt.Errorf("%q is neither serial nor name", text)
	}
}

// placeholders are what firmware says where nobody wrote a serial number.
var placeholders = map[string]bool{
	"NONE": true, "NULL": true, "UNKNOWN": true, "NOTSPECIFIED": true, "NOTAPPLICABLE": true, "NA": true, "N/A": true, "DEFAULTSTRING": true,
	"SYSTEMSERIALNUMBER": true, "TOBEFILLEDBYO.E.M.": true, "TOBEFILLEDBYOEM": true, "SERIALNUMBER": true, "CHASSISSERIALNUMBER": true,
	"0123456789": true, "123456789": true, "INVALID": true, "OEM": true,
}

// serial returns a serial number as it is compared, or "" for what identifies nothing.
func serial(text string) string {
	s := strings.ToUpper(strings.Join(strings.Fields(text), ""))
	if len(s) < 4 || len(s) > 128 || placeholders[s] || strings.Count(s, s[:1]) == len(s) {
		return ""
	}
	return s
}

// key is what a host is known by here, or "".
func (m Match) key(h Host) string {
	if m == MatchName {
		return strings.ToLower(strings.TrimSpace(h.Name))
	}
	return serial(h.Serial)
}

// keyOf is the same for a device of ours.
func (m Match) keyOf(r quarantine.Record) string {
	if m == MatchName {
		return strings.ToLower(r.Name)
	}
	return serial(r.Serial)
}
