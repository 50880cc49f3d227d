package sanity

import (
	"slices"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/onsi/ginkgo/v2"
	"github.com/onsi/ginkgo/v2/types"
)

// checkSkips fails for tests that were skipped although the driver advertises
// what they are about: such a skip would hide a mistake of the set-up.
func checkSkips(t *testing.T, report ginkgo.Report, advertised []string) {
	t.Helper()
	// The reasons of csi-sanity to skip, and the capability that each is about.
	needs := map[string]string{
		"Controller Publish, UnpublishVolume not supported":    "controller/PUBLISH_UNPUBLISH_VOLUME",
		"ControllerExpandVolume not supported":                 "controller/EXPAND_VOLUME",
		"ControllerGetVolumeHealth not supported":              "controller/GET_VOLUME_HEALTH",
		"ControllerListVolumeHealth not supported":             "controller/LIST_VOLUME_HEALTH",
		"ControllerModifyVolume not supported":                 "controller/MODIFY_VOLUME",
		"ControllerPublishVolume not supported":                "controller/PUBLISH_UNPUBLISH_VOLUME",
		"ControllerPublishVolume.readonly field not supported": "controller/PUBLISH_READONLY",
		"ControllerUnpublishVolume not supported":              "controller/PUBLISH_UNPUBLISH_VOLUME",
		"CreateSnapshot not supported":                         "controller/CREATE_DELETE_SNAPSHOT",
		"DeleteSnapshot not supported":                         "controller/CREATE_DELETE_SNAPSHOT",
		"GetCapacity not supported":                            "controller/GET_CAPACITY",
		"GetSnapshot not supported":                            "controller/GET_SNAPSHOT",
		"GroupControllerService not supported":                 "plugin/GROUP_CONTROLLER_SERVICE",
		"ListSnapshots not supported":                          "controller/LIST_SNAPSHOTS",
		"ListVolumes not supported":                            "controller/LIST_VOLUMES",
		"Modify Volume not supported":                          "controller/MODIFY_VOLUME",
		"Modify volume not supported":                          "controller/MODIFY_VOLUME",
		"NodeExpandVolume not supported":                       "node/EXPAND_VOLUME",
		"NodeGetStorageHealth not supported":                   "node/GET_STORAGE_HEALTH",
		"NodeGetVolumeHealth not supported":                    "node/GET_VOLUME_HEALTH",
		"NodeStageVolume not supported":                        "node/STAGE_UNSTAGE_VOLUME",
		"NodeUnstageVolume not supported":                      "node/STAGE_UNSTAGE_VOLUME",
		"SNAPSHOT_ACCESSIBILITY_CONSTRAINTS not supported":     "plugin/SNAPSHOT_ACCESSIBILITY_CONSTRAINTS",
		"Snapshot not supported":                               "controller/CREATE_DELETE_SNAPSHOT",
		"Volume Cloning not supported":                         "controller/CLONE_VOLUME",
		"VolumeGroupSnapshots not supported":                   "plugin/GROUP_CONTROLLER_SERVICE",
	}
	passed := 0
	for _, spec := range report.SpecReports {
		switch spec.State {
		case types.SpecStatePassed:
			passed++
		case types.SpecStateSkipped:
			reason := spec.Failure.Message
			need, known := needs[reason]
			if !known || slices.Contains(advertised, need) {
				t.Errorf("skipped: %s: %s; the driver has %v", spec.FullText(), reason, advertised)
			}
		default: // failures are csi-sanity's to tell, pending tests are not yet for anybody
		}
	}
	t.Logf("%d tests of csi-sanity passed", passed)
	if passed == 0 {
		t.Error("no test of csi-sanity ran")
	}
}

// capabilities are what the two services say that they can.
func capabilities(t *testing.T, node, controller string) []string {
	t.Helper()
	var names []string
	connection := dial(t, controller)
	plugin, err := csi.NewIdentityClient(connection).GetPluginCapabilities(t.Context(), &csi.GetPluginCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range plugin.GetCapabilities() {
		names = append(names, "plugin/"+each.GetService().GetType().String())
	}
	controllers, err := csi.NewControllerClient(connection).ControllerGetCapabilities(t.Context(), &csi.ControllerGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range controllers.GetCapabilities() {
		names = append(names, "controller/"+each.GetRpc().GetType().String())
	}
	nodes, err := csi.NewNodeClient(dial(t, node)).NodeGetCapabilities(t.Context(), &csi.NodeGetCapabilitiesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range nodes.GetCapabilities() {
		names = append(names, "node/"+each.GetRpc().GetType().String())
	}
	return names
}
