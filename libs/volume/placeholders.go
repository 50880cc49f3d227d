package volume

import (
	"maps"
	"slices"
	"strings"
)

// ClientArgv is the argument vector of the client for a mount at the path.
func (s Settings) ClientArgv(mountPoint string) []string {
	return s.WithMountPoint(mountPoint).Client
}

// WithMountPoint is a copy of the settings for a mount at the path, wherever
// the settings hold the placeholder MountPoint.
func (s Settings) WithMountPoint(mountPoint string) Settings {
	s.fill(strings.NewReplacer(MountPoint, mountPoint))
	return s
}

// fill replaces placeholders. It makes new slices and maps, so that copies of
// the settings do not change.
func (s *Settings) fill(replacer *strings.Replacer) {
	s.Client = replaceAll(s.Client, replacer)
	s.Env = slices.Clone(s.Env)
	for i := range s.Env {
		s.Env[i].Value = replacer.Replace(s.Env[i].Value)
	}
	s.Pod.Labels = replaceValues(s.Pod.Labels, replacer)
	s.Pod.Annotations = replaceValues(s.Pod.Annotations, replacer)
}

func replaceAll(texts []string, replacer *strings.Replacer) []string {
	texts = slices.Clone(texts)
	for i := range texts {
		texts[i] = replacer.Replace(texts[i])
	}
	return texts
}

func replaceValues(values map[string]string, replacer *strings.Replacer) map[string]string {
	values = maps.Clone(values)
	for key, value := range values {
		values[key] = replacer.Replace(value)
	}
	return values
}
