// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bufio"
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/concordtx/concord/coordinator/commit"
)

func TestFiguresThatAreTooManyAreToldInPart(t *testing.T) {
	f := &commit.Figures{Clock: time.UnixMilli(1), InDoubt: 7}
	for i := range 2000 {
		f.Resources = append(f.Resources,
			commit.ResourceFigures{Name: fmt.Sprintf("r%d", i),
				Health: commit.Health{Err: strings.Repeat("é", 1000), Identity: strings.Repeat("i", 1000)}})
		f.Warnings = append(f.Warnings, strings.Repeat("w", 1000)+"\xff")
	}
	b := Report{Clock: time.UnixMilli(2), Figures: f}.append(nil)
	require.Less(t, len(b), maxToldResources*(2*maxToldName+2*maxToldText+64)+maxToldWarnings*(maxToldText+2)+
		reportSize)
	r, err := decodeReport(b)
	require.NoError(t, err)
	require.Equal(t, 7, r.Figures.InDoubt)
	require.Len(t, r.Figures.Resources, maxToldResources)
	require.Empty(t, r.Figures.Resources[0].Identity, "half of an identity is another one")
	require.Len(t, r.Figures.Warnings, maxToldWarnings)
	require.Contains(t, r.Figures.Warnings[maxToldWarnings-1], "1969 more")
	b = sampleReport().append(nil)
	for n := range b {
		if _, err := decodeReport(b[:n]); n != reportSize && n != reportSize+8 {
			require.ErrorIs(t, err, errBadFrame, "cut at %d", n)
		}
	}
}

// A node of the release before does not know figures, and would take them for damage.
func TestFiguresAreToldOnlyToWhoKnowsThem(t *testing.T) {
	r := sampleReport()
	for version, want := range map[uint16]*commit.Figures{figuresVersion - 1: nil, figuresVersion: r.Figures} {
		frame := appendOutbound(nil, outbound{report: &r}, version)
		in, err := readInbound(bufio.NewReader(bytes.NewReader(frame)), 1)
		require.NoError(t, err)
		require.Equal(t, want, in.Report.Figures, "version %d", version)
		require.Equal(t, want == nil, in.Report.Clock.IsZero(), "version %d", version)
	}
	require.NotNil(t, r.Figures, "the others are still told")
	early := r
	early.Clock, early.Figures = time.Time{}, nil
	require.Len(t, early.append(nil), reportSize, "what the release before says and reads")
}
