package ssf

import (
	"slices"
	"strings"

	"lazaret/quarantine"
	"lazaret/quarantine/source/set"
)

// devices finds the devices that a subject names as devices; named says that it names one,
// whether or not it is one of ours. Revoked devices are none.
func (r *Receiver) devices(st *stream, s set.Subject) (found []quarantine.Record, named bool) {
	if s.Format == set.FormatComplex {
		d, ok := s.Members["device"]
		if !ok {
			return nil, false
		}
		s = d
	}
	for _, one := range s.Simple() {
		id := deviceIdentifier(st.settings, one)
		if id == "" {
			continue
		}
		named = true
		for _, rec := range r.lookUp(st.settings, id) {
			if !slices.ContainsFunc(found, func(f quarantine.Record) bool { return f.ID == rec.ID }) {
				found = append(found, rec)
			}
		}
	}
	return found, named
}

// deviceIdentifier is what a simple subject calls a device; empty where it is about none.
func deviceIdentifier(s Settings, one set.Subject) string {
	if s.DeviceField != "" {
		return one.Fields[s.DeviceField]
	}
	switch one.Format {
	case set.FormatOpaque:
		return one.Fields["id"]
	case set.FormatIssSub:
		return one.Fields["sub"]
	case set.FormatURI:
		return one.Fields["uri"]
	case set.FormatDID:
		return one.Fields["url"]
	}
	return ""
}

// lookUp finds devices by an identifier, letter by letter.
func (r *Receiver) lookUp(s Settings, id string) (found []quarantine.Record) {
	for _, by := range s.deviceBy() {
		switch by {
		case BySerial:
			found = append(found, r.cfg.Gate.BySerial(id)...)
		case ByID, ByName:
			rec, err := r.cfg.Gate.Device(id)
			if err == nil && (by == ByID && string(rec.ID) == id || by == ByName && rec.Name == id) {
				found = append(found, rec)
			}
		}
	}
	return slices.DeleteFunc(found, func(rec quarantine.Record) bool { return rec.Revocation.Set() })
}

// owners are the names of the user that a subject is about, as ownerKey writes them; none
// where it is about no user that could be known here.
func owners(s Settings, subject set.Subject) (names []string) {
	if subject.Format == set.FormatComplex {
		user, ok := subject.Members["user"]
		if !ok {
			return nil
		}
		subject = user
	}
	for _, one := range subject.Simple() {
		switch one.Format {
		case set.FormatEmail:
			names = append(names, one.Fields["email"])
		case set.FormatIssSub:
			if one.Fields["iss"] == s.userIssuer() {
				names = append(names, one.Fields["sub"])
			}
		case set.FormatAccount:
			if account, ok := strings.CutPrefix(one.Fields["uri"], "acct:"); ok {
				names = append(names, account)
			}
		case set.FormatOpaque:
			names = append(names, one.Fields["id"])
		}
	}
	for i := range names {
		names[i] = ownerKey(names[i])
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// ownerKey is a user's name for comparisons: letter by letter, save that ASCII letters of a
// mail address count the same in both cases.
func ownerKey(owner string) string {
	if !strings.Contains(owner, "@") {
		return owner
	}
	return strings.Map(func(c rune) rune {
		if 'A' <= c && c <= 'Z' {
			return c + 'a' - 'A'
		}
		return c
	}, owner)
}

// ownedBy are the devices of a user, revoked ones not.
func (r *Receiver) ownedBy(names []string) (found []quarantine.Record) {
	if len(names) == 0 {
		return nil
	}
	for _, rec := range r.cfg.Gate.Devices() {
		if rec.Owner != "" && !rec.Revocation.Set() && slices.Contains(names, ownerKey(rec.Owner)) {
			found = append(found, rec)
		}
	}
	return found
}
