package jamf

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"lazaret/quarantine"
	"lazaret/quarantine/source/poll"
)

const (
	perPage  = 200
	maxPages = poll.MaxHosts / perPage * 4
)

// Jamf is a poll.Product.
type Jamf struct {
	group, mobile string // smart groups; empty: not read
	api           string
}

func (j *Jamf) computers() string { return "/api/" + j.api + "/computers-inventory" }

// computerSections are of GET computers-inventory, mobileSections of mobile-devices/detail.
var (
	computerSections = []string{"GENERAL", "HARDWARE", "OPERATING_SYSTEM", "DISK_ENCRYPTION", "SECURITY", "GROUP_MEMBERSHIPS"}
	mobileSections   = []string{"GENERAL", "HARDWARE", "SECURITY", "GROUPS"}
)

// Hosts implements poll.Product.
func (j *Jamf) Hosts(ctx context.Context, c *poll.Client, take func([]poll.Host) error) error {
	if j.group != "" {
		if err := j.list(ctx, c, j.computers(), computerSections, "id", j.computer, take); err != nil {
			return err
		}
	}
	if j.mobile == "" {
		return nil
	}
	return j.list(ctx, c, "/api/v2/mobile-devices/detail", mobileSections, "mobileDeviceId", j.mobileDevice, take)
}

// list reads every page of one kind of device. The server says how many there are: fewer is
// an error, since they may have moved between pages while these were read.
func (j *Jamf) list(ctx context.Context, c *poll.Client, path string, sections []string, sort string, host func(*poll.Object) poll.Host, take func([]poll.Host) error) error {
	got := map[string]bool{}
	for page := range maxPages {
		body, err := c.Get(ctx, path, url.Values{
			"section": sections, "page": {strconv.Itoa(page)}, "page-size": {strconv.Itoa(perPage)}, "sort": {sort + ":asc"},
		})
		if err != nil {
			return err
		}
		hosts, total, err := readPage(body, host)
		if err != nil {
			return fmt.Errorf("reading devices of %s: %w", c.Host(), err)
		}
		if len(hosts) == 0 {
			if int64(len(got)) < total {
				return fmt.Errorf("%s says that it has %d devices and gave %d", c.Host(), total, len(got))
			}
			return nil
		}
		for _, h := range hosts {
			got[h.ID] = true
		}
		if err := take(hosts); err != nil {
			return err
		}
		if int64(len(got)) >= total {
			return nil
		}
	}
	return fmt.Errorf("%s has more than %d pages of devices", c.Host(), maxPages)
}

// readPage reads a page of either list, and how many devices the server has.
func readPage(body []byte, host func(*poll.Object) poll.Host) ([]poll.Host, int64, error) {
	o, err := poll.ReadObject(body)
	if err != nil {
		return nil, 0, err
	}
	page, total := o.Page("results"), o.Int("totalCount")
	if err := o.Err(); err != nil {
		return nil, 0, err
	}
	hosts := make([]poll.Host, len(page))
	for i, in := range page {
		hosts[i] = host(in)
	}
	return hosts, total, nil
}

// Host implements poll.Single, for computers: "computer/ID".
func (j *Jamf) Host(ctx context.Context, c *poll.Client, id string) (poll.Host, error) {
	number, ok := strings.CutPrefix(id, "computer/")
	if _, err := strconv.ParseUint(number, 10, 63); err != nil || !ok || j.group == "" {
		return poll.Host{}, fmt.Errorf("%.40q is no computer that is read by itself", id)
	}
	body, err := c.Get(ctx, j.computers()+"/"+number, url.Values{"section": computerSections})
	if s, ok := errors.AsType[*poll.StatusError](err); ok && s.Code == http.StatusNotFound {
		return poll.Host{}, poll.ErrGone
	}
	if err != nil {
		return poll.Host{}, err
	}
	o, err := poll.ReadObject(body)
	if err != nil {
		return poll.Host{}, err
	}
	return j.computer(o), nil
}

// computer reads one computer.
func (j *Jamf) computer(o *poll.Object) poll.Host {
	h := poll.Host{Facts: map[string]string{}}
	general, hardware := o.Object("general"), o.Object("hardware")
	h.Name, h.Serial = general.Text("name"), hardware.Text("serialNumber")
	if id := o.ID("id"); id != "" {
		h.ID = "computer/" + id
	}
	contact := "lastContactTime"
	if j.api == "v4" { // which has told apart what that was: lastCheckIn and lastContact
		contact = "lastContact"
	}
	h.CheckedIn = earlier(general.NullTime("reportDate"), general.NullTime(contact))
	managed := general.Object("remoteManagement").Bool("managed")
	judge(&h, j.group, managed, o.Objects("groupMemberships"), "smartGroup")
	if err := o.Err(); err != nil {
		h.Fault = err.Error()
		return h
	}
	hardware.Known(h.Facts, "device.serial", "serialNumber")
	hardware.Known(h.Facts, "device.model", "model")
	hardware.Known(h.Facts, "device.manufacturer", "make")
	system := o.Within("operatingSystem")
	poll.PutSystem(h.Facts, system.Plain("name"))
	poll.PutVersion(h.Facts, system.Plain("version"))
	system.Known(h.Facts, "os.build", "build")
	computerFacts(h.Facts, o)
	return h
}

// computerFacts tells what the sections on disk and security say in so many words.
func computerFacts(facts map[string]string, o *poll.Object) {
	switch o.Within("diskEncryption").Within("bootPartitionEncryptionDetails").Plain("partitionFileVault2State") {
	case "ENCRYPTED", "OPTIMIZING":
		poll.Put(facts, "disk.encrypted", "true")
	case "UNENCRYPTED", "DECRYPTED", "DECRYPTING", "DECRYPTING_PAUSED", "ENCRYPTING", "ENCRYPTING_PAUSED", "INELIGIBLE", "RESTART_NEEDED":
		poll.Put(facts, "disk.encrypted", "false")
	}
	security := o.Within("security")
	security.Known(facts, "firewall.enabled", "firewallEnabled")
	switch security.Plain("secureBootLevel") {
	case "FULL_SECURITY":
		poll.Put(facts, "boot.secure", "true")
	case "MEDIUM_SECURITY", "NO_SECURITY", "NOT_SUPPORTED":
		poll.Put(facts, "boot.secure", "false")
	}
	if sip := security.Plain("sipStatus"); sip == "ENABLED" || sip == "DISABLED" {
		poll.Put(facts, "custom.jamf.sip", strings.ToLower(sip))
	}
}

// mobileDevice reads one mobile device.
func (j *Jamf) mobileDevice(o *poll.Object) poll.Host {
	h := poll.Host{Facts: map[string]string{}}
	general, hardware := o.Object("general"), o.Object("hardware")
	h.Name, h.Serial = general.Text("displayName"), hardware.Text("serialNumber")
	if id := o.ID("mobileDeviceId"); id != "" {
		h.ID = "mobile/" + id
	}
	h.CheckedIn = general.NullTime("lastInventoryUpdateDate")
	judge(&h, j.mobile, general.Bool("managed"), o.Objects("groups"), "smart")
	if err := o.Err(); err != nil {
		h.Fault = err.Error()
		return h
	}
	hardware.Known(h.Facts, "device.serial", "serialNumber")
	hardware.Known(h.Facts, "device.model", "model")
	poll.PutSystem(h.Facts, o.Plain("deviceType"))
	poll.PutVersion(h.Facts, general.Plain("osVersion"))
	general.Known(h.Facts, "os.build", "osBuild")
	security := o.Within("security")
	security.Known(h.Facts, "passcode.set", "passcodePresent")
	security.Known(h.Facts, "disk.encrypted", "dataProtected")
	return h
}

// judge sets the verdict by membership in the group that stands for compliance.
func judge(h *poll.Host, group string, managed bool, groups []*poll.Object, smart string) {
	in := false
	for _, g := range groups {
		id, name := g.ID("groupId"), g.Text("groupName")
		if id == group || name == group {
			in = in || g.Bool(smart)
		}
	}
	switch {
	case !managed:
		h.Verdict, h.Detail = quarantine.NonCompliant, "Jamf Pro does not manage it"
	case in:
		h.Verdict, h.Detail = quarantine.Compliant, fmt.Sprintf("in smart group %.64q", group)
	default:
		h.Verdict, h.Detail = quarantine.NonCompliant, fmt.Sprintf("not in smart group %.64q", group)
	}
}

// earlier is the earlier of two instants; zero where either is.
func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// ReadHook reads a webhook: which computers it is about. Where it is about mobile devices,
// about too many, or about none by ID, all are to be asked.
func ReadHook(body []byte) ([]string, error) {
	var hook struct {
		Webhook struct {
			Event string `json:"webhookEvent"`
		} `json:"webhook"`
		Event struct {
			Added    []json.Number `json:"groupAddedDevicesIds"`
			Removed  []json.Number `json:"groupRemovedDevicesIds"`
			ID       json.Number   `json:"jssID"`
			Computer struct {
				ID json.Number `json:"jssID"`
			} `json:"computer"`
		} `json:"event"`
	}
	// "computer" is an object in one event and a truth value in others.
	wrong := (*json.UnmarshalTypeError)(nil)
	if err := json.Unmarshal(body, &hook); err != nil && !errors.As(err, &wrong) || hook.Webhook.Event == "" {
		return nil, errors.New("it is no webhook of Jamf Pro's")
	}
	event := hook.Webhook.Event
	if !strings.Contains(event, "Computer") {
		return nil, nil
	}
	numbers := append(hook.Event.Added, hook.Event.Removed...)
	if !strings.HasPrefix(event, "SmartGroup") {
		numbers = append(numbers, hook.Event.ID, hook.Event.Computer.ID)
	}
	var ids []string
	for _, n := range numbers {
		if id, err := n.Int64(); err == nil && id > 0 {
			ids = append(ids, "computer/"+strconv.FormatInt(id, 10))
		}
	}
	return ids, nil
}
