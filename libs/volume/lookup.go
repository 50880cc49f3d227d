package volume

import (
	"slices"
	"strings"
)

// lookup reads attributes, and annotations of the claim where those count.
type lookup struct {
	attributes map[string]string
	claim      map[string]string
}

// lookupOf lets the claim choose resources always, and the rest of the mount pod
// where the installation allows it.
func lookupOf(in Inputs) lookup {
	claim := make(map[string]string)
	for key, value := range in.Claim.Annotations {
		unsafe := in.Defaults.AllowUnsafeClaimAnnotations && isPodAttribute(key)
		if value != "" && (unsafe || slices.Contains(resourceAttributes(), key)) {
			claim[key] = value
		}
	}
	return lookup{attributes: in.Attributes, claim: claim}
}

func resourceAttributes() []string {
	return []string{attributeCPULimit, attributeMemoryLimit, attributeCPURequest, attributeMemoryRequest}
}

// isPodAttribute says whether the key is one of the existing driver's for mount
// pods.
func isPodAttribute(key string) bool {
	return strings.HasPrefix(key, "juicefs/") && key != AttributeControllerQuotaSet && slices.Contains(knownAttributes(), key)
}

// value is what the claim says, or else the volume.
func (l lookup) value(key string) string {
	if value, found := l.claim[key]; found {
		return value
	}
	return l.attributes[key]
}

// source names where the value is from.
func (l lookup) source(key string) string {
	if _, found := l.claim[key]; found {
		return sourceClaim
	}
	return sourceAttribute
}

// fault records what is wrong with the value of key.
func (l lookup) fault(faults *faults, key, format string, args ...any) {
	faults.add(l.source(key), key, format, args...)
}
