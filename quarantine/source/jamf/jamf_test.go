package jamf

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/poll"
	"lazaret/quarantine/source/polltest"
)

type object = map[string]any

// aComputer is one of GET computers-inventory of the Jamf Pro API, with the sections asked for.
func aComputer(n int, groups ...object) object {
	return object{
		"id": strconv.Itoa(n), "udid": fmt.Sprintf("55900BDC-347C-58B1-D249-%012d", n),
		"general": object{
			"name": fmt.Sprintf("mac-%d", n), "platform": "Mac", "jamfBinaryVersion": "11.20.0", "supervised": true, "remoteManagement": object{"managed": true, "managementUsername": ""},
			"reportDate": "2026-11-22T06:00:00.000Z", "lastContactTime": "2026-11-22T11:58:00.000Z", "lastEnrolledDate": "2026-01-05T08:00:00.000Z",
		},
		"hardware":         object{"make": "Apple", "model": "MacBook Pro (14-inch, 2024)", "modelIdentifier": "Mac16,1", "serialNumber": fmt.Sprintf("JAMF%06d", n)},
		"operatingSystem":  object{"name": "macOS", "version": "15.1.1", "build": "24B91"},
		"diskEncryption":   object{"bootPartitionEncryptionDetails": object{"partitionName": "Macintosh HD", "partitionFileVault2State": "ENCRYPTED", "partitionFileVault2Percent": 100}},
		"security":         object{"sipStatus": "ENABLED", "gatekeeperStatus": "APP_STORE_AND_IDENTIFIED_DEVELOPERS", "firewallEnabled": true, "secureBootLevel": "FULL_SECURITY"},
		"groupMemberships": groups,
	}
}

var (
	compliant = object{"groupId": "17", "groupName": "Compliant Macs", "smartGroup": true}
	others    = object{"groupId": "1", "groupName": "All Managed Clients", "smartGroup": true}
	byHand    = object{"groupId": "17", "groupName": "Compliant Macs", "smartGroup": false}
)

// aMobile is one of GET mobile-devices/detail.
func aMobile(n int, groups ...object) object {
	return object{
		"mobileDeviceId": strconv.Itoa(n), "deviceType": "iOS",
		"general":  object{"udid": "x", "displayName": fmt.Sprintf("ipad-%d", n), "lastInventoryUpdateDate": "2026-11-22T06:00:00.000Z", "osVersion": "18.1.1", "osBuild": "22B91", "managed": true, "supervised": true},
		"hardware": object{"model": "iPad Pro", "modelIdentifier": "iPad16,3", "serialNumber": fmt.Sprintf("PAD%06d", n)},
		"security": object{"dataProtected": true, "passcodePresent": true, "passcodeCompliant": true}, "groups": groups,
	}
}

// standIn answers as Jamf Pro does.
type standIn struct {
	polltest.Server
	computers, mobiles []object
	total              int // that it says there are, where set
	asked              []string
	on                 func(w http.ResponseWriter, page int) bool
}

func newStandIn(computers ...object) *standIn {
	s := &standIn{computers: computers}
	s.Path, s.Pages = "/api/oauth/token", s.answer
	s.Form = func(r *http.Request) bool {
		return r.FormValue("client_id") == "c-1" && r.FormValue("client_secret") == "se-cret"
	}
	return s
}

func (s *standIn) answer(w http.ResponseWriter, r *http.Request) {
	s.asked = append(s.asked, r.URL.String())
	if id, ok := strings.CutPrefix(r.URL.Path, "/api/v3/computers-inventory/"); ok {
		for _, c := range s.computers {
			if c["id"] == id {
				_ = json.NewEncoder(w).Encode(c)
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
		return
	}
	q := r.URL.Query()
	var all []object
	switch {
	case r.URL.Path == "/api/v3/computers-inventory" && slices.Contains(q["section"], "GROUP_MEMBERSHIPS"):
		all = s.computers
	case r.URL.Path == "/api/v2/mobile-devices/detail" && slices.Contains(q["section"], "GROUPS"):
		all = s.mobiles
	default:
		http.NotFound(w, r)
		return
	}
	page, _ := strconv.Atoi(q.Get("page"))
	per, _ := strconv.Atoi(q.Get("page-size"))
	if s.on != nil && s.on(w, page) {
		return
	}
	total := len(all)
	if s.total > 0 {
		total = s.total
	}
	from, to := min(page*per, len(all)), min((page+1)*per, len(all))
	_ = json.NewEncoder(w).Encode(object{"totalCount": total, "results": append([]object{}, all[from:to]...)})
}

func newLab(t *testing.T, s *standIn, more object, devices ...quarantine.Record) *polltest.Lab {
	t.Helper()
	settings := object{"client_id": "c-1", "group": "Compliant Macs"}
	for k, v := range more {
		settings[k] = v
	}
	return polltest.New(t, Kind, settings, map[string]string{"client_secret": "se-cret"}, s, devices...)
}

func general(o object) object { return o["general"].(object) }

func TestVerdicts(t *testing.T) {
	unmanaged := aComputer(1, compliant)
	general(unmanaged)["remoteManagement"] = object{"managed": false}
	stale := aComputer(1, compliant) // it checks in, and sends no inventory
	general(stale)["reportDate"] = "2026-11-19T06:00:00.000Z"
	silent := aComputer(1, compliant)
	general(silent)["lastContactTime"] = "2026-11-19T06:00:00.000Z"
	never := aComputer(1, compliant)
	general(never)["reportDate"] = nil
	for what, c := range map[string]struct {
		computer object
		group    string
		released bool
	}{
		"in the group":          {aComputer(1, others, compliant), "Compliant Macs", true},
		"in the group, by ID":   {aComputer(1, others, compliant), "17", true},
		"in another":            {aComputer(1, others), "Compliant Macs", false},
		"in none":               {aComputer(1, []object{}...), "Compliant Macs", false},
		"put there by hand":     {aComputer(1, byHand), "17", false},
		"not managed":           {unmanaged, "17", false},
		"inventory of 3 days":   {stale, "17", false},
		"no contact for 3 days": {silent, "17", false},
		"no inventory ever":     {never, "17", false},
	} {
		if c.computer["groupMemberships"].([]object) == nil {
			c.computer["groupMemberships"] = []object{}
		}
		l := newLab(t, newStandIn(c.computer), object{"group": c.group}, polltest.Device("dev1", "JAMF000001"))
		l.Must()
		if l.Gate.Released("dev1") != c.released || l.Problem() != "" {
			t.Errorf("%s: released is %v, %+v, problem %q", what, l.Gate.Released("dev1"), l.Gate.Last("dev1"), l.Problem())
		}
	}
}

func TestFacts(t *testing.T) {
	s := newStandIn(aComputer(1, compliant))
	s.mobiles = []object{aMobile(5, object{"groupId": "9", "groupName": "Compliant iPads", "groupDescription": "", "smart": true})}
	l := newLab(t, s, object{"mobile_group": "9"}, polltest.Device("dev1", "jamf000001"), polltest.Device("pad", "PAD000005"))
	l.Must()
	for id, want := range map[quarantine.ID]map[string]string{
		"dev1": {
			"os.name": "macos", "os.version": "15.1.1", "os.build": "24B91", "device.serial": "JAMF000001", "device.model": "MacBook Pro (14-inch, 2024)", "device.manufacturer": "Apple",
			"disk.encrypted": "true", "firewall.enabled": "true", "boot.secure": "true", "custom.jamf.sip": "enabled",
			"mdm.compliant": "true", "mdm.enrolled": "true", "device.managed": "true", "mdm.last_seen": "2026-11-22T03:30:00Z",
		},
		"pad": {
			"os.name": "ios", "os.version": "18.1.1", "os.build": "22B91", "device.serial": "PAD000005", "device.model": "iPad Pro", "disk.encrypted": "true", "passcode.set": "true",
			"mdm.compliant": "true", "mdm.enrolled": "true", "device.managed": "true", "mdm.last_seen": "2026-11-22T03:30:00Z",
		},
	} {
		n := l.Gate.Last(id)
		seen, err := time.Parse(time.RFC3339, n.Facts["mdm.last_seen"])
		if err != nil || seen.After(n.At) || n.At.Sub(seen) > Validity/4 {
			t.Errorf("%s: last seen %s, at %s", id, n.Facts["mdm.last_seen"], n.At)
		}
		want["mdm.last_seen"] = n.Facts["mdm.last_seen"]
		if fmt.Sprint(n.Facts) != fmt.Sprint(want) || !l.Gate.Released(id) {
			t.Errorf("%s: facts are %v, want %v", id, n.Facts, want)
		}
		if !n.At.Equal(time.Date(2026, 11, 22, 6, 0, 0, 0, time.UTC)) {
			t.Errorf("%s: dated %s, not by its inventory", id, n.At)
		}
	}
}

func TestPages(t *testing.T) {
	s := newStandIn()
	var devices []quarantine.Record
	for n := range 450 {
		s.computers, devices = append(s.computers, aComputer(n, compliant)), append(devices, polltest.Device(fmt.Sprint("dev", n), fmt.Sprintf("JAMF%06d", n)))
	}
	l := newLab(t, s, nil, devices...)
	l.Must()
	if len(s.asked) != 3 || s.Tokens != 1 || l.Gate.Told() != 450 || !l.Gate.Released("dev449") {
		t.Errorf("%d requests, %d tokens, %d reports", len(s.asked), s.Tokens, l.Gate.Told())
	}
	// It says that there are more than it gives: the list is not complete, and nobody is gone.
	s.computers, s.total = s.computers[:449], 450
	for range 3 {
		if err := l.Round(); err == nil || !strings.Contains(err.Error(), "450") {
			t.Errorf("one is missing: %v", err)
		}
	}
	if !l.Gate.Released("dev449") {
		t.Error("gone by a list that is not complete")
	}
	s.total = 449
	l.Must()
	l.Must()
	if l.Gate.Released("dev449") {
		t.Error("not gone by two complete lists")
	}
}

func TestThrottledAndExpired(t *testing.T) {
	s := newStandIn(aComputer(1, compliant))
	turned := 0
	s.on = func(w http.ResponseWriter, _ int) bool {
		turned++
		switch turned {
		case 1:
			w.Header().Set("Retry-After", "30")
			w.WriteHeader(http.StatusTooManyRequests)
		case 2:
			s.Valid = "taken back"
			w.WriteHeader(http.StatusUnauthorized)
		}
		return turned < 3
	}
	l := newLab(t, s, nil, polltest.Device("dev1", "JAMF000001"))
	l.Must()
	if len(l.Waits) != 1 || l.Waits[0] != 30*time.Second || s.Tokens != 2 || !l.Gate.Released("dev1") {
		t.Errorf("waited %v, %d tokens", l.Waits, s.Tokens)
	}
	s.Status = http.StatusNotFound
	if err := l.Round(); err == nil || !strings.Contains(l.Problem(), "404") {
		t.Errorf("a server without this version: %v", err)
	}
}

func TestSchemaChange(t *testing.T) {
	for field, change := range map[string]func(object){
		`"groupMemberships" is missing`:               func(c object) { delete(c, "groupMemberships") },
		`"groupMemberships[0].groupId" is missing`:    func(c object) { c["groupMemberships"] = []object{{"groupName": "Compliant Macs", "smartGroup": true}} },
		`"groupMemberships[0].smartGroup" is missing`: func(c object) { c["groupMemberships"] = []object{{"groupId": "17", "groupName": "Compliant Macs"}} },
		`"groupMemberships[0].smartGroup" is no truth`: func(c object) {
			c["groupMemberships"] = []object{{"groupId": "17", "groupName": "Compliant Macs", "smartGroup": "yes"}}
		},
		`"general.reportDate" is missing`:               func(c object) { delete(general(c), "reportDate") },
		`"general.lastContactTime" is missing`:          func(c object) { delete(general(c), "lastContactTime") },
		`"general.lastContactTime" is no text`:          func(c object) { general(c)["lastContactTime"] = 1763811000000 },
		`"general.remoteManagement.managed" is missing`: func(c object) { general(c)["remoteManagement"] = object{} },
		`"general.remoteManagement" is missing`:         func(c object) { general(c)["remoteManagement"] = nil },
		`"id" is no text or whole number`:               func(c object) { c["id"] = true },
	} {
		s := newStandIn(aComputer(1, compliant))
		l := newLab(t, s, object{"group": "17"}, polltest.Device("dev1", "JAMF000001"))
		l.Must()
		if !l.Gate.Released("dev1") {
			t.Fatal("not released to begin with")
		}
		change(s.computers[0])
		_ = l.Round() // without an ID the list is not complete either
		if l.Gate.Released("dev1") || !strings.Contains(l.Problem(), field) {
			t.Errorf("%s: %+v, problem %q", field, l.Gate.Last("dev1"), l.Problem())
		}
	}
	for what, body := range map[string]string{"no total": `{"results":[]}`, "no results": `{"totalCount":0}`, "cut": `{"totalCount":1,"results":[{`, "total as text": `{"totalCount":"1","results":[]}`} {
		s := newStandIn()
		s.on = func(w http.ResponseWriter, _ int) bool {
			_, _ = w.Write([]byte(body))
			return true
		}
		if err := newLab(t, s, nil).Round(); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

// TestVersion4 names the last contact otherwise.
func TestVersion4(t *testing.T) {
	page, _ := json.Marshal(object{"totalCount": 1, "results": []object{aComputer(1, compliant)}})
	j := &Jamf{group: "17", api: "v4"}
	hosts, _, err := readPage(page, j.computer)
	if err != nil || !strings.Contains(hosts[0].Fault, "lastContact") {
		t.Errorf("%+v, %v", hosts, err)
	}
	c := aComputer(1, compliant)
	general(c)["lastContact"] = general(c)["lastContactTime"]
	page, _ = json.Marshal(object{"totalCount": 1, "results": []object{c}})
	if hosts, _, err = readPage(page, j.computer); err != nil || hosts[0].Verdict != quarantine.Compliant || hosts[0].Fault != "" {
		t.Errorf("%+v, %v", hosts, err)
	}
}

func TestOneComputer(t *testing.T) {
	s := newStandIn(aComputer(13, compliant))
	l := newLab(t, s, nil)
	one := l.Setup.Product.(poll.Single)
	if h, err := one.Host(t.Context(), l.Client, "computer/13"); err != nil || h.Verdict != quarantine.Compliant || h.ID != "computer/13" {
		t.Errorf("%+v, %v", h, err)
	}
	if _, err := one.Host(t.Context(), l.Client, "computer/14"); err != poll.ErrGone {
		t.Errorf("one that is not there: %v", err)
	}
	asked := len(s.asked)
	for _, id := range []string{"13", "mobile/13", "computer/../13", "computer/"} {
		if _, err := one.Host(t.Context(), l.Client, id); err == nil || len(s.asked) != asked {
			t.Errorf("%s: %v", id, err)
		}
	}
}

// TestHook reads payloads of "Webhooks" of Jamf's developer site.
func TestHook(t *testing.T) {
	for text, want := range map[string]string{
		`{"event":{"computer":{"deviceName":"mac-13","jssID":13,"serialNumber":"JAMF000013","udid":"x"},"trigger":"CLIENT_CHECKIN","username":"x"},"webhook":{"eventTimestamp":1763811000000,"id":7,"name":"w","webhookEvent":"ComputerCheckIn"}}`:                   "[computer/13]",
		`{"event":{"deviceName":"mac-4","jssID":4,"serialNumber":"x"},"webhook":{"id":1,"name":"w","webhookEvent":"ComputerInventoryCompleted"}}`:                                                                                                                    "[computer/4]",
		`{"event":{"computer":true,"groupAddedDevices":[],"groupAddedDevicesIds":[1,2],"groupRemovedDevices":[],"groupRemovedDevicesIds":[3],"jssid":17,"name":"Compliant Macs","smartGroup":true},"webhook":{"webhookEvent":"SmartGroupComputerMembershipChange"}}`: "[computer/1 computer/2 computer/3]",
		`{"event":{"computer":false,"groupAddedDevicesIds":[1]},"webhook":{"webhookEvent":"SmartGroupMobileDeviceMembershipChange"}}`:                                                                                                                                "[]",
		`{"webhook":{"webhookEvent":"JSSStartup"}}`: "[]",
	} {
		if ids, err := ReadHook([]byte(text)); err != nil || fmt.Sprint(ids) != want {
			t.Errorf("%s: %v, %v", text, ids, err)
		}
	}
	for _, bad := range []string{``, `{}`, `[]`, `{"webhook":{"webhookEvent":5}}`, `{"webhook":`} {
		if _, err := ReadHook([]byte(bad)); err == nil {
			t.Errorf("took %s", bad)
		}
	}
}

func TestSettings(t *testing.T) {
	for text, ok := range map[string]bool{
		`{"url":"https://x.jamfcloud.com","client_id":"a","group":"17"}`: true, `{"url":"https://x.jamfcloud.com","client_id":"a","mobile_group":"9","api":"v1"}`: true,
		`{"url":"https://x.jamfcloud.com","client_id":"a"}`: false, `{"url":"https://x.jamfcloud.com","group":"17"}`: false, `{"client_id":"a","group":"17"}`: false,
		`{"url":"https://x.jamfcloud.com","client_id":"a","group":"17","api":"v5"}`: false, `{"url":"https://x.jamfcloud.com","client_id":"a","group":"17","api":"v1/../x"}`: false,
	} {
		if _, err := Kind.Make([]byte(text), map[string]string{"client_secret": "x"}); (err == nil) != ok {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func FuzzReadPage(f *testing.F) {
	page, _ := json.Marshal(object{"totalCount": 1, "results": []object{aComputer(1, compliant)}})
	f.Add(page)
	page, _ = json.Marshal(object{"totalCount": 1, "results": []object{aMobile(1, compliant)}})
	f.Add(page)
	f.Fuzz(func(t *testing.T, body []byte) {
		j := &Jamf{group: "17", mobile: "17", api: "v3"}
		for _, read := range []func(*poll.Object) poll.Host{j.computer, j.mobileDevice} {
			hosts, _, err := readPage(body, read)
			for _, h := range hosts {
				if err != nil || h.Fault == "" && h.ID == "" || h.Fault == "" && h.Verdict == "" {
					t.Errorf("%+v, %v", h, err)
				}
			}
		}
	})
}

func FuzzReadHook(f *testing.F) {
	f.Add([]byte(`{"event":{"computer":{"jssID":13}},"webhook":{"webhookEvent":"ComputerCheckIn"}}`))
	f.Add([]byte(`{"event":{"computer":true,"groupAddedDevicesIds":[1]},"webhook":{"webhookEvent":"SmartGroupComputerMembershipChange"}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		ids, _ := ReadHook(body)
		for _, id := range ids {
			number, ok := strings.CutPrefix(id, "computer/")
			if n, err := strconv.ParseInt(number, 10, 64); err != nil || !ok || n < 1 {
				t.Errorf("host %q", id)
			}
		}
	})
}
