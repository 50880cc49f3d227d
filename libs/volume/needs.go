package volume

import (
	"maps"
)

// NeedsClaim says whether settings depend on the claim of a volume, so that a
// mount cannot be made without knowing it.
func (c Config) NeedsClaim() bool {
	for i := range c.MountPodPatch {
		if c.MountPodPatch[i].PVCSelector != nil {
			return true
		}
	}
	return false
}

// NeedsNode says whether settings depend on the labels of the node.
func (c Config) NeedsNode() bool {
	for i := range c.MountPodPatch {
		if c.MountPodPatch[i].NodeSelector != nil {
			return true
		}
	}
	return false
}

// NeedsApp says whether settings depend on the application's pod; byDefault is
// what enableNodeSelector is where the ConfigMap does not say.
func (c Config) NeedsApp(byDefault bool) bool {
	for i := range c.MountPodPatch {
		if c.MountPodPatch[i].ResourcePercentages != nil {
			return true
		}
	}
	return c.SelectsNodes(byDefault)
}

// IsDynamic says whether a provisioner made the volume that has these
// attributes.
func IsDynamic(attributes map[string]string) bool { return isDynamic(attributes) }

// SameFileSystem compares two publish Secrets: the same name at the same
// metadata engine, or, of the Enterprise Edition, with the same token and
// console. Credentials of the object storage may differ.
func SameFileSystem(a, b map[string]string) bool { return maps.Equal(identityOf(a), identityOf(b)) }

// identityOf are the keys of a Secret that say which file system it is.
func identityOf(secret map[string]string) map[string]string {
	keys := canonicalSecret(secret)
	identity := map[string]string{"name": keys["name"]}
	if address := keys["metaurl"]; address != "" {
		if parsed, err := parseMetaURL(address); err == nil {
			address = parsed.address // A new password makes no other file system.
		}
		identity["metaurl"] = address
		return identity
	}
	identity["token"] = keys["token"]
	if envs, err := parseStringMap(keys["envs"]); err == nil {
		identity["BASE_URL"] = envs["BASE_URL"]
	}
	return identity
}
