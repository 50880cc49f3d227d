package volume

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// defaultMaxRead is what the client asks of the kernel: --max-fuse-io=128K.
const defaultMaxRead = 128 << 10

// defaultMetricsPort is where Community clients serve their metrics.
const defaultMetricsPort = 9567

// option is one mount option; without hasValue it is a switch.
type option struct {
	key      string
	value    string
	hasValue bool
}

func (o option) String() string {
	if !o.hasValue {
		return o.key
	}
	return o.key + "=" + o.value
}

// options holds the last option of every key: as in mount(8), what comes later
// wins. Opposites (nodev, dev) share a key.
type options map[string]option

// addList adds a comma list.
func (o options) addList(list string, faults *faults) {
	for text := range strings.SplitSeq(list, ",") {
		text = strings.TrimSpace(text)
		if text == "" {
			continue
		}
		key, value, hasValue := strings.Cut(text, "=")
		key = strings.TrimLeft(key, "-")
		if key == "" || strings.ContainsAny(text, "\x00\n\r") {
			faults.add(sourceOption, strconv.Quote(text), "is not of the form name or name=value")
			continue
		}
		o.set(option{key: key, value: value, hasValue: hasValue})
	}
}

func (o options) set(added option) {
	o[optionSlot(added.key)] = added
}

// optionSlot is the name under which an option and its opposite meet.
func optionSlot(key string) string {
	switch key {
	case "nosuid", "nodev", "noexec", "noatime":
		return key[len("no"):]
	case "async":
		return "sync"
	case "rw", "read-only":
		return "ro"
	}
	return key
}

func (o options) has(key string) bool {
	found, exists := o[optionSlot(key)]
	return exists && found.key == key
}

func (o options) value(key string) string { return o[optionSlot(key)].value }

// list is the value of -o: sorted, so that the order in which people write
// options makes no difference.
func (o options) list() string {
	texts := make([]string, 0, len(o))
	for _, key := range slices.Sorted(maps.Keys(o)) {
		if o[key].key == "rw" {
			continue
		}
		texts = append(texts, o[key].String())
	}
	return strings.Join(texts, ",")
}

// refusedOptions fail inside the client's FUSE library, without a word why.
func refusedOptions() []string {
	return []string{"kernel_cache", "entry_timeout", "attr_timeout", "negative_timeout", "max_background"}
}

// check refuses what would break the mount later and less clearly.
func (o options) check(faults *faults) {
	for _, key := range refusedOptions() {
		if _, found := o[key]; found {
			faults.add(sourceOption, key, "is not an option of the JuiceFS client%s", alternative(key))
		}
	}
	for _, key := range []string{"fd", "rootmode"} {
		if _, found := o[key]; found {
			faults.add(sourceOption, key, "is set by the driver")
		}
	}
	if subdir := o.value("subdir"); subdir != "" && hasParent(subdir) {
		faults.add(sourceOption, "subdir", "%q must not hold ..", subdir)
	}
}

func alternative(key string) string {
	switch key {
	case "entry_timeout":
		return "; use entry-cache"
	case "attr_timeout":
		return "; use attr-cache"
	case "negative_timeout":
		return "; use negative-entry-cache"
	}
	return ""
}

func hasParent(text string) bool {
	return slices.Contains(strings.Split(text, "/"), "..")
}

// kernelMount derives what the client would have asked of mount(2); observed on
// clients 1.3.1 and 1.4.2. Read-only mounts are writable for the kernel: the
// client answers EROFS.
func (o options) kernelMount(name string, faults *faults) KernelMount {
	mount := KernelMount{
		Source:             "JuiceFS:" + name,
		Flags:              unix.MS_NOSUID | unix.MS_NODEV,
		MaxRead:            defaultMaxRead,
		DefaultPermissions: !o.has("non-default-permission"),
		WritebackCache:     o.has("writeback_cache"),
	}
	if o.has("suid") {
		mount.Flags &^= unix.MS_NOSUID
	}
	if o.has("dev") {
		mount.Flags &^= unix.MS_NODEV
	}
	for key, flag := range map[string]uintptr{
		"noexec":  unix.MS_NOEXEC,
		"noatime": unix.MS_NOATIME,
		"sync":    unix.MS_SYNCHRONOUS,
		"dirsync": unix.MS_DIRSYNC,
	} {
		if o.has(key) {
			mount.Flags |= flag
		}
	}
	for _, key := range []string{"max-fuse-io", "max_read"} {
		if _, found := o[key]; !found {
			continue
		}
		size, err := parseSize(o.value(key))
		if err != nil || size < 4<<10 || size > 16<<20 {
			faults.add(sourceOption, key, "%q is not a size between 4K and 16M", o.value(key))
			continue
		}
		mount.MaxRead = int(size)
	}
	return mount
}

// parseSize reads a number of bytes with one of the suffixes K, M, G, T, as the
// client does: powers of 1024.
func parseSize(text string) (int64, error) {
	digits := strings.TrimRight(text, "BbiI")
	shift := 0
	if digits != "" {
		if unit := strings.IndexByte("KMGT", digits[len(digits)-1]&^0x20); unit >= 0 {
			shift = 10 * (unit + 1)
			digits = digits[:len(digits)-1]
		}
	}
	number, err := strconv.ParseFloat(digits, 64)
	if err != nil || math.IsNaN(number) || number < 0 || number > float64(int64(math.MaxInt64)>>shift) {
		return 0, fmt.Errorf("%q is not a size", text)
	}
	return int64(number * float64(int64(1)<<shift)), nil
}

// metricsPort reads the port of the metrics option; 0 lets the client choose.
func (o options) metricsPort(faults *faults) int32 {
	address := o.value("metrics")
	if address == "" {
		return 0 // The Enterprise client serves none unless it is asked to.
	}
	port, err := strconv.ParseUint(address[strings.LastIndexByte(address, ':')+1:], 10, 16)
	if err != nil || !strings.Contains(address, ":") {
		faults.add(sourceOption, "metrics", "%q is not an address, which looks like 0.0.0.0:9567", address)
		return 0
	}
	return int32(port)
}
