// SPDX-License-Identifier: Apache-2.0

package seal

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestWhatWasSealedOpensAndNothingElse(t *testing.T) {
	key, value := []byte("key"), append(make([]byte, Len), "body"...)
	Put(key, value)
	body, err := Open(key, value)
	require.NoError(t, err)
	require.Equal(t, "body", string(body))

	_, err = Open([]byte("kez"), value)
	require.ErrorIs(t, err, ErrChecksum, "under another key")
	for i := range value {
		value[i] ^= 1
		_, err = Open(key, value)
		require.ErrorIs(t, err, ErrChecksum, "byte %d", i)
		value[i] ^= 1
	}
	_, err = Open(key, value[:Len-1])
	require.ErrorIs(t, err, ErrLength)
	_, err = Open(key, value[:Len+2])
	require.ErrorIs(t, err, ErrChecksum)
}
