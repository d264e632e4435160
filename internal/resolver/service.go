package resolver

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	"github.com/miekg/dns"

	"lazaret/quarantine"
)

// What an answer to a device may be.
const (
	maxUDP     = 1232 // bytes; no fragments
	maxAnswers = 8    // addresses of one family: small answers amplify nothing
	longestTTL = 5 * time.Minute
	staleTTL   = 30 * time.Second // RFC 8767, section 5.2
	leastTTL   = 5 * time.Second
)

// Directory says who asks, and what the plan in force lets it reach; *quarantine.Gate is one.
type Directory interface {
	// Standing returns the device at an address, and its placement in force.
	Standing(a netip.Addr) (quarantine.ID, quarantine.Placement, error)
	// Pools returns the pools by name.
	Pools() (map[string]quarantine.Pool, <-chan struct{})
	// Opens reports whether devices in a pool reach an address.
	Opens(pool string, a netip.Addr) bool
}

// ServiceConfig is what a Service is made of.
type ServiceConfig struct {
	Directory Directory    // required
	Resolver  *Resolver    // required
	Portal    string       // optional: the name of the gateway's own page
	At        []netip.Addr // optional: where that is, the gateway's addresses in the tunnel
	Log       *slog.Logger // optional: discards
}

// Service answers devices. Whoever is not known is refused.
type Service struct {
	cfg   ServiceConfig
	pace  *pace
	slots chan struct{} // datagrams under way
	asked *tally[quarantine.ID]
}

// The bounds of what is under way at once. Questions that are forwarded wait for others, up
// to forwardTime; they leave room for those that the gateway answers by itself, which are
// needed most while nobody else answers.
const (
	questions    = 1024 // by UDP
	forwards     = 512
	forwardsEach = 32 // of one device: what a page of many hosts asks at once
	forwardTime  = 5 * time.Second
)

// NewService makes a Service.
func NewService(c ServiceConfig) (*Service, error) {
	if c.Directory == nil || c.Resolver == nil {
		return nil, errors.New("making the resolver's service: directory and resolver are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.Portal = canonical(c.Portal)
	return &Service{cfg: c, pace: newPace(), slots: make(chan struct{}, questions), asked: newTally[quarantine.ID](forwards, forwardsEach)}, nil
}

// Answer answers one message; nil: with silence. It reads nothing but the message, and asks
// an upstream server only for a device that is routed in a pool that forwards.
func (s *Service) Answer(ctx context.Context, from netip.Addr, message []byte, udp bool) []byte {
	q := new(dns.Msg)
	if len(message) < 12 || message[2]&0x80 != 0 { // an answer is never answered: two servers could go on for ever
		return nil
	}
	err := q.Unpack(message)
	if err != nil || len(q.Question) != 1 || len(q.Answer)+len(q.Ns) > 0 {
		return s.fault(message, dns.RcodeFormatError)
	}
	reply := new(dns.Msg)
	reply.SetReply(q)
	reply.RecursionAvailable = true
	size := dns.MinMsgSize
	if opt := q.IsEdns0(); opt != nil {
		reply.SetEdns0(maxUDP, opt.Do())
		size = min(max(int(opt.UDPSize()), dns.MinMsgSize), maxUDP)
	}
	if !udp {
		size = dns.MaxMsgSize
	}
	s.fill(ctx, from.Unmap(), q, reply)
	reply.Compress = true
	reply.Truncate(size)
	out, err := reply.Pack()
	if err != nil || len(out) > size {
		s.cfg.Log.Error("an answer cannot be written", "type", dns.TypeToString[q.Question[0].Qtype], "bytes", len(out), "error", err)
		return s.fault(message, dns.RcodeServerFailure)
	}
	return out
}

// fault answers with the header alone.
func (s *Service) fault(message []byte, rcode int) []byte {
	out := slices.Clone(message[:12])
	out[2] = 0x80 | message[2]&0x79 // an answer; opcode and RD as asked
	out[3] = 0x80 | byte(rcode)
	clear(out[4:])
	return out
}

// fill decides what is said. A reply that nobody filled in refuses.
func (s *Service) fill(ctx context.Context, from netip.Addr, q, reply *dns.Msg) {
	question := q.Question[0]
	reply.Rcode = dns.RcodeRefused
	switch opt := q.IsEdns0(); {
	case q.Opcode != dns.OpcodeQuery:
		reply.Rcode = dns.RcodeNotImplemented
		return
	case opt != nil && opt.Version() != 0:
		reply.IsEdns0().SetVersion(0)
		reply.SetRcode(q, dns.RcodeBadVers)
		return
	case question.Qclass != dns.ClassINET || !plainType(question.Qtype):
		return
	}
	id, placed, err := s.cfg.Directory.Standing(from)
	if err != nil {
		return
	}
	name := canonical(question.Name)
	if name == s.cfg.Portal && name != "" {
		s.say(question, reply, s.cfg.At, longestTTL)
		return
	}
	pools, _ := s.cfg.Directory.Pools()
	if list := reaching(pools, placed, name); len(list) > 0 {
		s.pinned(question, reply, list, name)
		return
	}
	if placed.Stage == quarantine.Routed && pools[placed.Pool].Forward {
		s.forward(ctx, id, q, reply)
		return
	}
	s.explain(reply, placed)
}

// plainType reports whether a type asks for one kind of record. What asks for everything,
// or for a whole zone, is refused (RFC 8482).
func plainType(t uint16) bool {
	switch t {
	case dns.TypeNone, dns.TypeANY, dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeOPT, dns.TypeTSIG, dns.TypeTKEY:
		return false
	}
	return true
}

// reaching are the pools that reach a name, of those that the device is in: the quarantine
// pool, through which every device reaches the management server, and its own.
func reaching(pools map[string]quarantine.Pool, placed quarantine.Placement, name string) []string {
	var list []string
	for pool, p := range pools {
		in := p.Quarantine || placed.Stage == quarantine.Routed && placed.Pool == pool
		if in && slices.ContainsFunc(p.Named, func(n quarantine.NamedReach) bool { return n.Name == name }) {
			list = append(list, pool)
		}
	}
	slices.Sort(list)
	return list
}

// pinned answers with the addresses that the firewall lets through at this moment. Other
// types of the name have no record here: what they could say, an address hint for one,
// might lead elsewhere.
func (s *Service) pinned(question dns.Question, reply *dns.Msg, pools []string, name string) {
	known, ok := s.cfg.Resolver.Look(name)
	if !ok {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	var addrs, before []netip.Addr // of the latest answer, and of those before
	ttl, latest := longestTTL, false
	for _, p := range known.Pins {
		latest = latest || p.Current
		open := slices.ContainsFunc(pools, func(pool string) bool { return s.cfg.Directory.Opens(pool, p.Addr) })
		switch {
		case !open:
			continue
		case !p.Current:
			before = append(before, p.Addr)
			continue
		}
		addrs = append(addrs, p.Addr)
		left := time.Until(p.Good)
		if left <= 0 {
			left = staleTTL
		}
		ttl = min(ttl, left)
	}
	if len(addrs) == 0 && latest && len(before) > 0 { // the new ones wait for a place, or a plan
		addrs, ttl = before, staleTTL
	}
	if len(addrs) == 0 && (known.Answered.IsZero() || latest) { // not known yet, or not open yet or at all
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	s.say(question, reply, addrs, max(ttl, leastTTL))
}

// say answers with those addresses that are of the type asked for.
func (s *Service) say(question dns.Question, reply *dns.Msg, addrs []netip.Addr, ttl time.Duration) {
	reply.Rcode = dns.RcodeSuccess
	head := dns.RR_Header{Name: question.Name, Rrtype: question.Qtype, Class: dns.ClassINET, Ttl: uint32(ttl / time.Second)}
	for _, a := range addrs {
		switch {
		case len(reply.Answer) == maxAnswers:
			return
		case question.Qtype == dns.TypeA && a.Is4():
			reply.Answer = append(reply.Answer, &dns.A{Hdr: head, A: a.AsSlice()})
		case question.Qtype == dns.TypeAAAA && a.Is6():
			reply.Answer = append(reply.Answer, &dns.AAAA{Hdr: head, AAAA: a.AsSlice()})
		}
	}
}

// forward asks the upstream servers on behalf of a routed device. Where too many wait for
// them already it does not wait.
func (s *Service) forward(ctx context.Context, id quarantine.ID, q, reply *dns.Msg) {
	if !s.asked.enter(id) {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	defer s.asked.leave(id)
	ctx, cancel := context.WithTimeout(ctx, forwardTime)
	defer cancel()
	question, opt := q.Question[0], q.IsEdns0()
	up, err := s.cfg.Resolver.ask.ask(ctx, question.Name, question.Qtype, opt != nil && opt.Do())
	if err != nil {
		reply.Rcode = dns.RcodeServerFailure
		return
	}
	reply.Rcode, reply.Answer, reply.Ns = up.Rcode, up.Answer, up.Ns
	for _, rr := range slices.Concat(reply.Answer, reply.Ns) {
		if h := rr.Header(); canonical(h.Name) == canonical(question.Name) {
			h.Name = question.Name // not with the letters of our own question
		}
	}
}

// explain tells a resolver that can read it why it is refused (RFC 8914).
func (s *Service) explain(reply *dns.Msg, placed quarantine.Placement) {
	opt := reply.IsEdns0()
	if opt == nil {
		return
	}
	why := &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeProhibited}
	if placed.Stage == quarantine.Quarantined {
		why.ExtraText = "this device is in quarantine"
		if s.cfg.Portal != "" {
			why.ExtraText += ": see http://" + s.cfg.Portal + "/"
		}
	}
	opt.Option = append(opt.Option, why)
}
