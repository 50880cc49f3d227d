package volume

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
)

// placeholders are texts and what takes their place, in turn.
type placeholders []string

// templates are the placeholders that mountPodPatch may hold. The hash is taken
// before they are filled, since a shared mount must not differ by volume.
func templates(in Inputs) placeholders {
	return placeholders{
		"${VOLUME_ID}", in.VolumeID,
		"${VOLUME_NAME}", cmp.Or(in.VolumeName, in.VolumeID),
		"${SUB_PATH}", in.Attributes[AttributeSubPath],
	}
}

// ClientArgv is the argument vector of the client for a mount at the path.
func (s Settings) ClientArgv(mountPoint string) []string {
	return s.WithMountPoint(mountPoint).Client
}

// WithMountPoint is a copy of the settings for a mount at the path, wherever
// the settings hold the placeholder MountPoint.
func (s Settings) WithMountPoint(mountPoint string) Settings {
	s.fill(placeholders{MountPoint, mountPoint})
	return s
}

// fill replaces placeholders. It makes new slices and maps, so that copies of
// the settings do not change.
func (s *Settings) fill(values placeholders) {
	replacer := strings.NewReplacer(values...)
	s.Client = slices.Clone(s.Client)
	for i := range s.Client {
		s.Client[i] = replacer.Replace(s.Client[i])
	}
	s.Env = slices.Clone(s.Env)
	for i := range s.Env {
		s.Env[i].Value = replacer.Replace(s.Env[i].Value)
	}
	s.Pod = s.Pod.filled(values)
}

// filled replaces placeholders in every text of the shape, keys too, as the
// existing driver does.
func (s PodShape) filled(values placeholders) PodShape {
	encoded, err := json.Marshal(s)
	if err != nil {
		return s
	}
	escaped := slices.Clone(values)
	for i := 1; i < len(escaped); i += 2 {
		quoted, err := json.Marshal(escaped[i])
		if err != nil {
			return s
		}
		escaped[i] = string(quoted[1 : len(quoted)-1])
	}
	var filled PodShape
	if err := json.Unmarshal([]byte(strings.NewReplacer(escaped...).Replace(string(encoded))), &filled); err != nil {
		return s
	}
	return filled
}
