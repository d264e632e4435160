package policy

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/types"
	"cel.dev/cel-go/common/types/ref"

	"lazaret/quarantine"
)

// Type is how a fact's text is read.
type Type string

const (
	Text     Type = "text"     // as it stands; empty text is no value
	Bool     Type = "bool"     // "true" or "false"
	Int      Type = "int"      // decimal, 64 bits
	Time     Type = "time"     // RFC 3339
	Duration Type = "duration" // as Go writes it, like "15m0s"; not negative
	Version  Type = "version"  // dotted numbers with an optional suffix, see ParseVersion
	List     Type = "list"     // of texts; no fact of a report
)

// Fact is a name that rules can speak of.
type Fact struct {
	Name string
	Type Type
	Text string // what it says, for people

	from origin
}

// origin is who can say a fact.
type origin int

const (
	anybody  origin = iota // any source with the right to, and the device's own agent
	managers               // any source with the right to, and never the agent
	gateway                // the gateway alone, which files it with the agent's report
	record                 // what is on record of the device; no report has a say
)

// Families of facts whose names end as somebody else chose.
const (
	FleetPolicy = "fleet.policy." // fleet_policy("NAME"): what Fleet found of its policy of that name
	Custom      = "custom."       // custom("NAME")
)

// Vocabulary is every fact but the families, by name. What is not in it does not exist for
// rules.
func Vocabulary() []Fact { return slices.Clone(vocabulary) }

var vocabulary = []Fact{
	{"agent.version", Version, "version of the device agent", anybody},
	{"antivirus.enabled", Bool, "a virus scanner is on and up to date", anybody},
	{"boot.secure", Bool, "secure boot is on", anybody},
	{"device.enrolled_serial", Text, "hardware serial number that the one-time password named, if any", record},
	{"device.groups", List, "groups of the device and of its profile", record},
	{"device.jailbroken", Bool, "jailbreak or root was found", anybody},
	{"device.managed", Bool, "a management system manages it", anybody},
	{"device.manufacturer", Text, "who made it", anybody},
	{"device.model", Text, "hardware model, as the device or its management system names it", anybody},
	{"device.name", Text, "its name here", record},
	{"device.owner", Text, "whose it is", record},
	{"device.ownership", Text, "corporate or personal, as the one-time password said", record},
	{"device.platform", Text, "platform, as the one-time password said", record},
	{"device.profile", Text, "enrollment profile", record},
	{"device.serial", Text, "hardware serial number", anybody},
	{"device.tampered", Bool, "signs of tampering were found", anybody},
	{"disk.encrypted", Bool, "every disk that holds user data is encrypted", anybody},
	{"firewall.enabled", Bool, "its own firewall is on", anybody},
	{"mdm.compliant", Bool, "the management system's own verdict", managers},
	{"mdm.enrolled", Bool, "the management system has it enrolled", managers},
	{"mdm.last_seen", Time, "when the management system last heard of it", managers},
	{"os.build", Text, "build of the operating system", anybody},
	{"os.name", Text, "operating system", anybody},
	{"os.patched_at", Time, "when the last update was installed", anybody},
	{"os.updates_pending", Int, "updates that wait to be installed", anybody},
	{"os.version", Version, "version of the operating system", anybody},
	{"passcode.set", Bool, "a passcode or password is set", anybody},
	{"profile.installed", Bool, "the management profile is installed", anybody},
	{"screen.lock", Bool, "the screen locks by itself and asks for a secret", anybody},
	{"screen.lock_after", Duration, "after how long without input it does", anybody},
	{"tpm.attested", Bool, "a TPM's word was checked by the gateway", gateway},
	{"tpm.present", Bool, "there is a TPM 2.0 or its like", anybody},
}

// From is who can say the fact, for people.
func (f Fact) From() string {
	switch f.from {
	case anybody:
		return "sources and the agent"
	case managers:
		return "sources, never the agent"
	case gateway:
		return "the gateway alone"
	default:
		return "on record here"
	}
}

var factByName = func() map[string]Fact {
	m := make(map[string]Fact, len(vocabulary))
	for _, f := range vocabulary {
		m[f.Name] = f
	}
	return m
}()

// factNamed finds a fact by name, members of the families too.
func factNamed(name string) (Fact, bool) {
	if f, ok := factByName[name]; ok {
		return f, true
	}
	if member(name, FleetPolicy) {
		return Fact{Name: name, Type: Text, from: managers}, true
	}
	if member(name, Custom) {
		return Fact{Name: name, Type: Text, from: anybody}, true
	}
	return Fact{}, false
}

func member(name, family string) bool {
	rest, ok := strings.CutPrefix(name, family)
	return ok && rest != "" && len(name) <= 64
}

// saidBy reports whether a source may say the fact.
func (f Fact) saidBy(name string, s quarantine.Source, known bool) bool {
	agent := name == quarantine.AgentSource
	switch f.from {
	case anybody:
		return agent || known && s.Speaks(f.Name)
	case managers:
		return !agent && known && s.Speaks(f.Name)
	case gateway:
		return agent
	default:
		return false
	}
}

// celType is the fact's type in an expression.
func (t Type) celType() *cel.Type {
	switch t {
	case Bool:
		return cel.BoolType
	case Int:
		return cel.IntType
	case Time:
		return cel.TimestampType
	case Duration:
		return cel.DurationType
	case Version:
		return versionType
	case List:
		return cel.ListType(cel.StringType)
	default:
		return cel.StringType
	}
}

// read turns a fact's text into a value; false where it is none of the type.
func (t Type) read(s string) (ref.Val, bool) {
	switch t {
	case Text:
		return types.String(s), s != ""
	case Bool:
		return types.Bool(s == "true"), s == "true" || s == "false"
	case Int:
		n, err := strconv.ParseInt(s, 10, 64)
		return types.Int(n), err == nil
	case Time:
		at, err := time.Parse(time.RFC3339, s)
		return types.Timestamp{Time: at.UTC()}, err == nil && at.Year() >= 1 && at.Year() <= 9999
	case Duration:
		d, err := time.ParseDuration(s)
		return types.Duration{Duration: d}, err == nil && d >= 0
	case Version:
		v, err := ParseVersion(s)
		return &versionValue{v}, err == nil
	default:
		return nil, false
	}
}
